"""Reading checkpoints with the safe loader, and writing files whole."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..errors import UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make the file ``path``: it is there when complete, or as it was before.

    Args:
        path: the file; its folder is made if need be.
        write: called with a temporary name in the same folder, which it writes.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path}: {cause}; free some space or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of fairseq's, carefully; see `checkpoints.load`.

    Raises:
        UserError: the file is missing, or cannot be used.
    """
    try:
        # tensors stay on the disk until they are used, so that the optimizer's cost nothing
        return checkpoints.load(path, map_location="cpu", mmap=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; check its name") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a checkpoint in it") from None
