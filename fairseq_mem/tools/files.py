"""Reading checkpoints with the safe loader, and JSON; writing files whole."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..errors import UserError

LARGEST = 1e100  # its square is a number still
MOST_NESTED = 50  # lists and objects in each other, in a JSON file of ours


def partial_name(path: Path) -> Path:
    """A name beside ``path`` for what is to become it, which no other process has."""
    # not the process's number: two containers that share a disk have the same numbers
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make the file ``path``: it is there when complete, or as it was before.

    Args:
        path: the file; its folder is made if need be.
        write: called with a temporary name in the same folder, which it writes.

    Raises:
        UserError: the file cannot be written.
    """
    partial = partial_name(path)
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


def is_number(value: object) -> bool:
    """Whether it is a number that can be computed with: neither infinite nor absurdly large."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or what it holds is no such object, or nested more
            deeply than anything of ours.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")  # a pipe would be waited for
    deep = "nested too deeply"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(deep) from None
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    level: list[Any] = [content]
    for _ in range(MOST_NESTED):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
        if not level:
            return content
    raise ValueError(deep)


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
