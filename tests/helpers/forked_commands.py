"""Commands in forks of this process, which are set up as a test likes before they begin.

A start of Python with torch and fairseq costs seconds. A fork costs nothing, and behaves as the
command that somebody starts: with its own standard streams, limits, folder and environment, and
with the end that Python itself makes of it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple

from helpers.commands import HANGS


class Ended(NamedTuple):
    """What became of a command."""

    status: int
    output: bytes
    errors: str

    @property
    def last_line(self) -> str:
        return (self.errors.strip().splitlines() or [""])[-1]


class Forked:
    """A command that runs.

    Args:
        program: reads ``sys.argv`` and may return an exit status, as a console script does.
        words: its ``sys.argv``.
        prepare: called in the fork, before it begins.
        lines: how many lines of its output are read before that is closed (None: all).
    """

    def __init__(
        self,
        program: Callable[[], object],
        words: list[object],
        prepare: Callable[[], object] = lambda: None,
        lines: int | None = None,
    ) -> None:
        ours, theirs = zip(os.pipe(), os.pipe(), strict=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            for end in ours:
                os.close(end)
            _begin(program, list(map(str, words)), prepare, theirs)
        for end in theirs:
            os.close(end)
        self._texts = [b"", b""]
        self._readers = [
            threading.Thread(target=self._read, args=(number, end, (lines, None)[number]))
            for number, end in enumerate(ours)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, number: int, end: int, lines: int | None) -> None:
        with open(end, "rb") as file:
            if lines is None:
                self._texts[number] = file.read()
            for _ in range(lines or 0):
                self._texts[number] += file.readline()

    def wait(self) -> Ended:
        """Wait for its end."""
        late = threading.Timer(HANGS, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        _, status = os.waitpid(self.pid, 0)
        late.cancel()
        for reader in self._readers:
            reader.join()
        output, errors = self._texts
        return Ended(os.waitstatus_to_exitcode(status), output, errors.decode("utf-8", "replace"))


def run(
    program: Callable[[], object],
    words: list[object],
    prepare: Callable[[], object] = lambda: None,
    lines: int | None = None,
) -> Ended:
    """Run a command to its end; see `Forked`."""
    return Forked(program, words, prepare, lines).wait()


def _begin(
    program: Callable[[], object],
    words: list[str],
    prepare: Callable[[], object],
    streams: tuple[int, ...],
) -> None:
    """In the fork: never returns."""
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, end in enumerate(streams, 1):
            os.dup2(end, number)
            os.close(end)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        sys.stdin = _stream(0, "r", "strict")
        sys.stdout = sys.__stdout__ = _stream(1, "w", "strict")
        sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")
        sys.argv = words
        status = status_of(program)
        for stream in (sys.stdout, sys.stderr):  # as Python does at its end
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError) as error:
                status = 120
                os.write(2, f"Exception ignored in: {stream!r}\n{error!r}\n".encode())
    finally:
        os._exit(status)


def _stream(number: int, mode: str, errors: str):
    """As Python makes it: None if it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return None
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)


def status_of(program: Callable[[], object]) -> int:
    """The exit status of a console script."""
    try:
        done = program()
        return done if isinstance(done, int) else 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        if sys.stderr is not None:
            print(end.code, file=sys.stderr)
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    return 1


def closed(*numbers: int) -> None:
    """In a fork: standard streams that somebody closed (``>&-``)."""
    for number in numbers:
        os.close(number)


def into(path: str, *numbers: int) -> None:
    """In a fork: standard streams that go into ``path``."""
    for number in numbers:
        descriptor = os.open(path, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)


def mount(folder: object, options: str) -> None:
    """Mount a file system in memory."""
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
