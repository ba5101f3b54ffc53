"""A call in a copy of this process with limits: whatever hangs, crashes or grows ends alone."""

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from helpers.forked_commands import run

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
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode("utf-8", "surrogateescape"))
        given.seek(0)

        def prepare() -> None:
            os.dup2(given.fileno(), 0)
            _limit()

        ended = run(call, sys.argv, prepare)
    return Done(ended.status, ended.output.decode("utf-8", "replace"), ended.errors)


def _limit() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(2 * SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
