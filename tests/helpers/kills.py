"""Killing what works on files, at a moment that can be chosen and repeated.

A program runs in a fork of this process, which has imported torch and fairseq already. It counts
what it does to files, and is killed before it does it; or a limit on the size of its files is put
up then, at which the system kills it in the middle of a write, without a word, as a kill -9 does.
"""

import contextlib
import logging
import mmap
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch._dynamo  # noqa: F401  (an optimizer would import it, in every fork)

HANGS = 600  # seconds; on a busy machine all else may take its time
TOUCHES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
SIZES = 200_000  # more bytes than what is tested here writes into most of its files


class Moment(NamedTuple):
    """When it happens, and to whom.

    Attributes:
        step: before which of the things that are counted, from 1; 0 for never.
        size: kill only where a file grows beyond so many bytes after that; None: at once.
        everyone: kill all processes that were begun, as a power cut does, not only the one.
        seconds: kill from outside after so long, wherever it is then.
    """

    step: int = 0
    size: int | None = None
    everyone: bool = True
    seconds: float | None = None


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
    counter = mmap.mmap(-1, 8)  # shared with all forks
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
            os.close(reading)  # the other end stays open in all forks: they are waited for
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
            logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
            _watch(str(folder), counter, moment)
            status = _status(program)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    said = _read(reading, pid, began, moment.seconds)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(status, int.from_bytes(counter[:8], "little"), time.monotonic() - began, said)


def step() -> None:
    """Counts as one of the moments; for what is no change of a file."""
    sys.audit("os.mkdir", _watched, -1, -1)


_watched = ""  # the folder, in a fork


def _status(program: Callable[[], object]) -> int:
    try:
        done = program()
        return done if isinstance(done, int) and not isinstance(done, bool) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
        return 1


def _watch(folder: str, counter: mmap.mmap, moment: Moment) -> None:
    global _watched
    _watched = folder
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    me = os.getpid()

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (flags or 0) & WRITES:
                return
        elif event in TOUCHES:
            path = arguments[0]
        else:
            return
        if not (isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder)):
            return
        count = int.from_bytes(counter[:8], "little") + 1
        counter[:8] = count.to_bytes(8, "little")
        if count != moment.step:
            return
        if moment.size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (moment.size, resource.RLIM_INFINITY))
        elif moment.everyone:
            kill_session(me)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_session(leader: int) -> None:
    """Kill a process and all that it began, ourselves last."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.name.isdigit():
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(entry.name))
    for pid in sorted(found, key=lambda pid: pid == os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
