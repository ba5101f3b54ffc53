"""Commands of fairseq's and ours, begun in a copy of this process instead of a new one.

A command needs seconds to import torch and fairseq. Where many short ones are run, one process
imports them, and each command is a fork of it, with its own standard output, process group and
signals, as if it had been started anew. This process must never have used a GPU.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import BinaryIO

from .signals import SIGNALS

Program = Callable[[], object]  # reads sys.argv, as a console script does

PROGRAMS: dict[str, Program] = {}  # empty: every command is a process of its own


def preload() -> None:
    """Import what the commands need; from now on they are forks.

    Raises:
        RuntimeError: this process has used a GPU already.
    """
    # the number of GPUs is asked without beginning to use one, which a fork could not go on with
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    if torch.cuda.is_initialized():
        raise RuntimeError("this process has begun to use a GPU")
    import_quietly("sklearn.metrics", "scipy.stats", "fairseq_mem.tools.predict")
    # by the names under which they are installed, as a shell finds them
    for name in ("fairseq-train", "fairseq-mem"):
        (program,) = entry_points(group="console_scripts", name=name)
        PROGRAMS[name] = program.load()


def import_quietly(*names: str) -> None:
    """Import modules that a command would import later."""
    from importlib import import_module

    for name in names:
        import_module(name)


class Forked:
    """A forked command, in those respects like ``subprocess.Popen`` that are used here."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, after ``timeout`` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def fork(
    program: Program,
    command: Sequence[str],
    output: BinaryIO | None = None,
    errors: BinaryIO | None = None,
    environment: dict[str, str] | None = None,
) -> Forked:
    """Run ``program`` as ``command`` in a copy of this process.

    Args:
        program: called without arguments.
        command: its ``sys.argv``.
        output: where its output goes (default: ours).
        errors: where its error output goes (default: where its output goes).
        environment: variables that differ from ours.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # both do it, so that neither can be too late
            os.setpgid(pid, pid)
        return Forked(pid, command)
    status = 70
    try:
        os.setpgid(0, 0)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if output is not None:
            os.dup2(output.fileno(), 1)
        os.dup2((errors or output or sys.stderr).fileno(), 2)
        os.environ.update(environment or {})
        sys.argv = list(command)
        status = _status_of(program)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status_of(program: Program) -> int:
    """Run a program to its end, as Python itself does it."""
    try:
        done = program()
        return done if isinstance(done, int) and not isinstance(done, bool) else 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1
