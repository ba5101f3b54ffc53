r"""Sentences out of text files, counted as preprocess.sh, translate and sacreBLEU count them.

Only ``\n`` ends a line: a carriage return, U+2028 and others that Python takes for a line's end may
stand inside a sentence. A byte order mark at the start of a file is none of its text.
"""

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import TextError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK_LINES = 1000  # enough work to outweigh the cost of passing it between processes


def is_empty(line: str | bytes) -> bool:
    """Whether nothing is to be seen in a line; between documents, such a line ends one."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    return not text.strip()


def read_lines(path: Path) -> list[str]:
    r"""The lines of a UTF-8 text; a carriage return at the end of a line is none of it.

    An empty file has none. It need not be a file that has a size: a pipe has lines too.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; says in which line. Or it is a device.
    """
    with path.open("rb") as file:
        if never_ends(file):
            raise ValueError(f"{path} is a device that never ends; give a file of text")
        text = file.read().removeprefix(BYTE_ORDER_MARK)
    texts = []
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n") if text else (), 1):
        try:
            texts.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {number} of {path.name}: not valid UTF-8 (byte 0x{line[error.start]:02x}); "
                "convert the file, for instance: iconv -f ISO-8859-1 -t UTF-8"
            ) from None
    return texts


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A text file, to be read as bytes.

    Raises:
        TextError: it cannot be read, or is a device.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror}; check the prefix") from error
    with file:
        if never_ends(file):
            raise TextError(f"{path} is a device that never ends; give a file of text")
        yield file


def never_ends(file: BinaryIO) -> bool:
    """Whether it is a device such as /dev/zero: neither a terminal nor empty as /dev/null."""
    if not stat.S_ISCHR(os.fstat(file.fileno()).st_mode) or file.isatty():
        return False
    return bool(file.read(1))


def line_chunks(file: BinaryIO, lines: int = CHUNK_LINES) -> Iterator[list[bytes]]:
    r"""The lines of a file, with their ``\n``, ``lines`` of them at a time."""
    while chunk := list(itertools.islice(file, lines)):
        yield chunk


def text_chunks(file: BinaryIO) -> Iterator[list[bytes]]:
    """`line_chunks` of raw text, without a byte order mark."""
    if file.read(3) != BYTE_ORDER_MARK:
        file.seek(0)
    return line_chunks(file)
