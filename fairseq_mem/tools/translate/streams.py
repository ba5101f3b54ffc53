"""Where text comes from and where it goes, and what is said meanwhile."""

import contextlib
import errno
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fairseq_mem_text.files import is_device, replacing
from fairseq_mem_text.lines import never_ends

from ...errors import UserError

BLOCK_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 20  # a longer line is not even kept
SECONDS_TO_WAIT = 0.05  # for more input before what is there gets translated ...
MOST_SECONDS_TO_WAIT = 0.5  # ... and altogether, for somebody who goes on writing
SECONDS_BETWEEN_PROGRESS = 10


@contextlib.contextmanager
def opened(path: str | None) -> Iterator[BinaryIO]:
    """The input, unbuffered."""
    if path is None:
        if sys.stdin is None:  # as with <&-
            raise UserError("the standard input is closed; give --input FILE")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb", buffering=0)
    except OSError as error:
        raise UserError(f"cannot read --input {path}: {error.strerror}") from error
    with file:
        if never_ends(file):
            raise UserError(f"--input {path} is a device that never ends; give a text")
        yield file


def read_chunks(file: int, most_lines: int) -> Iterator[list[bytes | None]]:
    r"""Lines without their ``\n``, as many at a time as are there but at most ``most_lines``.

    None stands for a line of more than MOST_LINE_BYTES. The last line may lack its ``\n``.
    """
    lines: list[bytes | None] = []
    since = 0.0  # when the first of them came
    rest = bytearray()  # of a line that has not ended yet
    too_long = False  # that line; no more of it is kept
    while block := read_block(file):
        *ends, tail = block.split(b"\n")
        if not lines:
            since = time.monotonic()
        for end in ends:
            rest += end
            too_long |= len(rest) > MOST_LINE_BYTES
            lines.append(None if too_long else bytes(rest))
            rest.clear()
            too_long = False
        rest += tail
        if len(rest) > MOST_LINE_BYTES:
            too_long = True
            rest.clear()
        while len(lines) >= most_lines:
            yield lines[:most_lines]
            lines = lines[most_lines:]
            since = time.monotonic()
        wait = min(SECONDS_TO_WAIT, since + MOST_SECONDS_TO_WAIT - time.monotonic())
        if lines and not (wait > 0 and select.select([file], [], [], wait)[0]):
            yield lines
            lines = []
    if rest or too_long:
        lines.append(None if too_long else bytes(rest))
    while lines:
        yield lines[:most_lines]
        lines = lines[most_lines:]


def read_block(file: int) -> bytes:
    """What is there of the input, nothing at its end."""
    try:
        return os.read(file, BLOCK_BYTES)
    except OSError as error:
        raise UserError(f"cannot read the input: {error.strerror}") from error


def decoded(line: bytes | None, first: bool) -> tuple[str, str | None]:
    """The text of a line of input, and what is wrong with it."""
    if line is None:
        return "", f"more than {MOST_LINE_BYTES:,} bytes, too long for any model; split it"
    if first:
        line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    try:
        return line.decode("utf-8").removesuffix("\r"), None
    except UnicodeDecodeError as error:
        return line.decode("utf-8", "replace"), (
            f"not valid UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}); convert the "
            "text, for instance: iconv -f ISO-8859-1 -t UTF-8"
        )


@contextlib.contextmanager
def written(path: str | None) -> Iterator[BinaryIO]:
    """The output; a file appears under its name only when it is complete."""
    try:
        if path is None:
            if sys.stdout is None:  # as with >&-
                raise UserError("the standard output is closed; give --output FILE")
            yield sys.stdout.buffer
            return
        if is_device(path):
            with open(path, "wb") as file:
                yield file
            return
        with replacing(Path(os.path.realpath(path))) as partial, open(partial, "xb") as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | None, error: OSError) -> UserError:
    """What is wrong with the output."""
    if path is None:
        return UserError(f"cannot write to the standard output: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"cannot write --output {path}: the disk is full; nothing was kept")
    return UserError(f"cannot write --output {path}: {error.strerror}")


class Progress:
    """On standard error: a bar on a terminal, else a line every few seconds; and messages."""

    def __init__(self, shown: bool, command: str = "translate") -> None:
        self.shown, self.command, self.lines = shown, command, 0
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(unit=" lines", file=sys.stderr)

    def add(self, lines: int) -> None:
        """So many lines more are translated."""
        self.lines += lines
        if self.bar is not None:
            self.bar.update(lines)
        elif self.shown and time.monotonic() - self.last >= SECONDS_BETWEEN_PROGRESS:
            self.last = time.monotonic()
            a_second = self.lines / (self.last - self.start)
            self.say(f"{self.lines:,} lines, {a_second:,.1f} a second")

    def say(self, message: str) -> None:
        """Print a message of the command's."""
        write: Callable[..., None] = print if self.bar is None else self.bar.write
        write(f"fairseq-mem {self.command}: {message}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
