"""A call in a copy of this process, as a command of its own: what it says, and how it ends.

The copy has limits on its memory and its time, so that whatever hangs, crashes or grows ends alone.
"""

import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MEMORY = 3 << 30  # bytes beyond what this process has already
SECONDS = 300  # of the CPU's; the clock on the wall is given twice as many


class Done(NamedTuple):
    """What became of a call: as of a process, the status negative where a signal ended it."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """What the user reads last."""
        return (self.stderr.strip().splitlines() or [""])[-1]


def apart(call: Callable[[], object], stdin: str = "") -> Done:
    """Fork, call, and wait for the end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode("utf-8", "surrogateescape"))
            given.seek(0)
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                _run(call, (given.fileno(), out.fileno(), err.fileno()))
        _, ended = os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Done(os.waitstatus_to_exitcode(ended), *texts)


def _run(call: Callable[[], object], descriptors: tuple[int, int, int]) -> None:
    """As Python does with a program; never returns."""
    status = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", errors=errors, closefd=False)
            for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"),
                                         (2, "w", "backslashreplace"))
        )  # fmt: skip
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(2 * SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        status = _status(call)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(call: Callable[[], object]) -> int:
    try:
        code = call()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        return 1
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1
