"""Files of tools and runs: written whole or not at all, with an error in one line."""

import os
from collections.abc import Callable
from pathlib import Path

from fairseq_mem_text.files import is_device, replacing

from .errors import UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make the file ``path``: it is there when complete, or as it was before.

    A link stays, and what it points to is made. A device or a pipe is written to: replacing
    ``/dev/null``, as root may, would break the machine.

    Args:
        path: the file; its folder is made if need be.
        write: called with a temporary name in the same folder, which it writes.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        if is_device(path):
            write(path)
            return
        goal = Path(os.path.realpath(path))
        goal.parent.mkdir(parents=True, exist_ok=True)
        with replacing(goal) as partial:
            write(partial)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        of_system = error if isinstance(error, OSError) else error.__context__
        cause = getattr(of_system, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path}: {cause}; free some space or choose another place"
        ) from error


def write_checkpoint(path: Path, state: object) -> None:
    """Write what ``torch.save`` writes, whole; of the same state always the same bytes."""
    import torch

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # given a name, torch puts it in, and hides what fails
            torch.save(state, file)

    write_whole(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))
