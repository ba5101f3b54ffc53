"""Killing what works on files, at a moment that can be chosen and repeated.

A program runs in a fork of this process, which has imported torch and fairseq already. It counts
what it does to files, and is killed before it does it; or a limit on the size of its files is put
up then, at which the system kills it in the middle of a write, without a word, as a kill -9 does.
"""

import contextlib
import logging
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch._dynamo  # noqa: F401  (an optimizer would import it, in every fork)

from helpers.dying import Moment, kill_session, members, step, tell
from helpers.forked_commands import status_of

__all__ = ["Ended", "Moment", "run", "some_moment", "step"]
HANGS = 600  # seconds; on a busy machine all else may take its time
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
SIZES = 200_000  # more bytes than what is tested here writes into most of its files


class Ended(NamedTuple):
    """How it ended, after how many steps, in how many seconds, and what it had said."""

    status: int
    steps: int
    seconds: float
    said: str

    @property
    def killed(self) -> bool:
        return self.status in KILLED


def some_moment(chance: random.Random, whole: Ended) -> Moment:
    """A moment within a run that takes as long as ``whole`` did: of any of the kinds."""
    kind = chance.choice(("step", "step", "size", "size", "outside"))
    if kind == "outside":
        return Moment(seconds=chance.uniform(0, whole.seconds))
    step, everyone = chance.randint(1, whole.steps), chance.random() < 0.7
    size = int(SIZES * chance.random() ** 4) if kind == "size" else None
    return Moment(step, size, everyone)


def run(program: Callable[[], object], folder: Path, moment: Moment = Moment()) -> Ended:
    """Run a program, that calls for files below ``folder``, in a fork until it ends or is killed.

    Its output, and that of all it begins, is waited for to the end: when it returns nothing runs.
    """
    with tempfile.NamedTemporaryFile() as counter:
        counter.write(bytes(8))
        counter.flush()
        return _run(program, folder, moment, counter.name)


def _run(program: Callable[[], object], folder: Path, moment: Moment, counter: str) -> Ended:
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (1, 2):
                os.dup2(writing, number)
            os.close(reading)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
            logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
            tell(str(folder), counter, moment)
            status = status_of(program)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    said = _read(reading, pid, began, moment.seconds)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    while members(pid):  # what was begun and was not killed
        assert time.monotonic() - began < 2 * HANGS, said
        time.sleep(0.01)
    steps = int.from_bytes(Path(counter).read_bytes(), "little")
    return Ended(status, steps, time.monotonic() - began, said)


def _read(reading: int, pid: int, began: float, seconds: float | None) -> str:
    """What is said until all who could say something have ended."""
    said = []
    ends = began + (HANGS if seconds is None else seconds)
    with open(reading, "rb", buffering=0) as file:
        while True:
            ready, _, _ = select.select([file], [], [], max(0, ends - time.monotonic()))
            if not ready:
                kill_session(pid)
                assert seconds is not None, f"hangs:\n{b''.join(said).decode(errors='replace')}"
                ends = time.monotonic() + HANGS
            elif block := file.read(1 << 16):
                said.append(block)
            else:
                return b"".join(said).decode(errors="replace")
