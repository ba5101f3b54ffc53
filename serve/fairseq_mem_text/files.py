"""Files written whole, read with care, and their checksums."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import TextError

LARGEST_NUMBER = 1e100  # squares and sums of such are still finite
LARGEST_FILE = 16 * 1024 * 1024  # bytes, of JSON and of other small files of ours
MOST_NESTED = 50  # lists and objects in each other, in a JSON file of ours

# ---------------------------------------------------------------- writing


def partial_name(path: Path) -> Path:
    """A name beside ``path`` for what is to become it, which no other process has."""
    # not the process's number: two containers that share a disk have the same numbers
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")


def is_device(path: str | Path) -> bool:
    """Whether it is there and neither a file nor a folder: a pipe, ``/dev/null``."""
    # not of its real path: that of a shell's >(...) is no path
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which takes its place if the context ends well.

    Whatever goes wrong, ``path`` is as it was and the temporary file is gone.
    """
    partial = partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def written(*paths: str) -> Iterator[list[BinaryIO]]:
    """Files that appear under their names, in this order, only when all of them are complete.

    Until then each has a name that ends in ``.partial``, always the same one, so that what a kill
    left is written over: for files that only one process makes.

    Raises:
        TextError: one cannot be written.
    """
    partial = [path + ".partial" for path in paths]
    files: list[BinaryIO] = []
    try:
        for path in partial:
            files.append(open(path, "wb"))
        yield files
        for file in files:
            file.close()
        for temporary, path in zip(partial, paths):
            os.replace(temporary, path)
    except BaseException as error:
        for file in files:
            with contextlib.suppress(OSError):
                file.close()
        for path in partial:
            with contextlib.suppress(OSError):
                os.remove(path)
        if isinstance(error, OSError):
            raise cannot_write(error.filename or paths[0], error) from error
        raise


def cannot_write(path: str, error: OSError) -> TextError:
    """What is wrong with the disk or the folder, and what to do."""
    cause = f"cannot write {path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = os.path.dirname(path) or "."
        free = shutil.disk_usage(folder).free // 2**20 if os.path.isdir(folder) else 0
        return TextError(f"{cause} ({free} MiB free); free some space and run again")
    return TextError(f"{cause}; choose a folder that can be written to")


# ---------------------------------------------------------------- reading


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: int = LARGEST_FILE) -> bytes:
    """What is in a regular file of at most ``most`` bytes.

    Raises:
        ValueError: it is no regular file, or larger.
        OSError: it cannot be read.
    """
    # O_NONBLOCK: opening a FIFO that nobody writes would wait for ever
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no regular file")
        if found.st_size > most:
            raise ValueError(f"{found.st_size:,} bytes are too many")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(found.st_size)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file or too large, or what it holds is no JSON object, nested
            more deeply than anything of ours, or has half a UTF-16 pair in a text.
    """
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        check_nesting(content)
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # lone surrogates are no text
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half a UTF-16 pair in a text") from None
    return content


def check_nesting(content: dict[str, Any]) -> None:
    """Refuse lists and objects that are nested more deeply than anything of ours.

    Raises:
        ValueError: these are.
    """
    level: list[Any] = [content]
    for _ in range(MOST_NESTED):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
    if level:
        raise ValueError("nested too deeply")


@contextlib.contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Tell of a damaged archive, a zip file or a tar file, in a line.

    Raises:
        TextError: it is damaged, or lacks a member.
    """
    try:
        yield
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError,
        RuntimeError, UnicodeDecodeError, KeyError,
    ) as error:  # fmt: skip
        raise TextError(f"{path} is damaged ({error}); remove it and fetch it again") from None


def is_number(value: object) -> bool:
    """Whether it is a number that can be computed with: neither infinite nor absurdly large."""
    is_some = isinstance(value, int | float) and not isinstance(value, bool)
    return is_some and abs(value) < LARGEST_NUMBER  # type: ignore[arg-type]  # NaN is not
