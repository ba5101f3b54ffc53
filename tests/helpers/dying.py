"""In a process that is to be killed: counting what it does to files, and the kill.

Imports nothing that takes time: what a shell starts reads it too, from its ``sitecustomize``.
"""

import contextlib
import json
import mmap
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple

TOUCHES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TOLD = "KILLS"  # the variable that tells what is begun: folder, counter, session, moment


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


def step() -> None:
    """Counts as one of the moments; for what is no change of a file."""
    sys.audit("os.mkdir", _watched, -1, -1)


_watched = ""  # the folder, in a fork


def tell(folder: str, counter: str, moment: Moment) -> None:
    """Watch this process, which leads a session, and let all that it begins do the same."""
    os.environ[TOLD] = json.dumps([folder, counter, os.getpid(), moment])
    watch_as_told()


def watch_as_told() -> None:
    """Count, and be killed."""
    global _watched
    _watched, path, leader, words = json.loads(os.environ[TOLD])
    moment = Moment(*words)
    with open(path, "r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (flags or 0) & WRITES:
                return
        elif event in TOUCHES:
            path = arguments[0]
        else:
            return
        if not (isinstance(path, str | os.PathLike) and os.fspath(path).startswith(_watched)):
            return
        count = int.from_bytes(counter[:8], "little") + 1
        counter[:8] = count.to_bytes(8, "little")
        if count != moment.step:
            return
        if moment.size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (moment.size, resource.RLIM_INFINITY))
        elif moment.everyone:
            kill_session(leader)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def members(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.name.isdigit():
                state, _, _, session = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:4]
                if int(session) == leader and state != b"Z":
                    found.append(int(entry.name))
    return found


def kill_session(leader: int) -> None:
    """Kill a process and all that it began, ourselves last."""
    for pid in sorted(members(leader), key=lambda pid: pid == os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
