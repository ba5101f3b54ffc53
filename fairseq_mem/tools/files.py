"""Reading checkpoints with the safe loader, and writing files whole."""

import contextlib
import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
    """Read a checkpoint of fairseq's; torch's safe loader stays on.

    Tensors stay on the disk until they are used, so that the optimizer's cost nothing.

    Raises:
        UserError: the file is missing, damaged, holds what the safe loader refuses, or is no
            checkpoint of fairseq's.
    """
    damaged = f"{path} is damaged (cut short, or changed on its way); leave it out"
    try:
        with path.open("rb") as file:
            is_archive = file.read(2) == b"PK"
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise UserError(damaged)
        # files of torch before 1.6 are no archives and cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; check its name") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a checkpoint in it") from None
    except (zipfile.BadZipFile, EOFError):
        raise UserError(damaged) from None
    except pickle.UnpicklingError:
        if is_archive:  # it is whole, so the loader has understood it
            raise UserError(
                f"{path} holds more than tensors and options, which torch's safe loader refuses; "
                "use only checkpoints that fairseq wrote"
            ) from None
        raise UserError(f"{path} is damaged, or no checkpoint; leave it out") from None
    except (OSError, MemoryError):
        raise
    except Exception:  # the unpickler stumbles over garbage in many ways
        raise UserError(f"{path} is damaged, or no checkpoint; leave it out") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is no checkpoint of fairseq's (no model in it); leave it out")
    return state
