"""Doing the work on a run in stages: what was done already stays, what is stopped can go on."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fairseq_mem_text.progress import show

from ..errors import UserError
from ..files import write_text
from . import folder as files
from .forked import PROGRAMS, Forked, fork
from .signals import StopOnSignal

PATIENCE = 30.0  # seconds that a command has to end after SIGTERM


class RunFailed(Exception):
    """A stage failed; the text says why, in a line."""


class Stages:
    """The work on one run, in its folder, while its lock is held.

    Use it as a context: a failure's reason goes into ``failed.txt``, a signal ends the command
    that is running, with all that it started, and raises `Stopped`.

    Args:
        folder: the run's folder, which exists.
        title: the run's name on the screen.
        lock: the open descriptor of its lock; the commands inherit it.
    """

    def __init__(self, folder: Path, title: str, lock: int) -> None:
        self.folder = folder
        self.title = title
        self.lock = lock
        self.signals = StopOnSignal()

    def __enter__(self) -> Self:
        (self.folder / "failed.txt").unlink(missing_ok=True)
        for path in self.folder.glob("*.partial"):  # of a kill: nobody else holds the lock
            path.unlink()
        files.end_killed_stages(self.folder)
        self.signals.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RunFailed | UserError | OSError):
            reason = " ".join(message_of(error).split())
            with contextlib.suppress(UserError):  # on a full disk the error itself must do
                write_text(self.folder / "failed.txt", f"{reason}\n")
        self.signals.__exit__()

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Say what begins, and count its seconds."""
        print(f"== {self.title}: {title}", flush=True)
        with self.signals.later():
            files.begin_stage(self.folder, name)
        try:
            yield
        finally:
            with self.signals.later():
                files.end_stage(self.folder, name)

    def run(
        self,
        command: Sequence[str],
        output: BinaryIO | None = None,
        errors: BinaryIO | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> int:
        """Run a command, which a signal to us ends with all that it started.

        Args:
            command: its words.
            output: where its output goes (default: ours).
            errors: where its error output goes (default: where its output goes).
            watch: called a few times a second, and when it has ended.

        Returns:
            Its exit status.
        """
        process: subprocess.Popen | Forked | None = None
        try:
            with self.signals.later():
                process = self._begin(command, output, errors)
            while process.poll() is None:
                watch()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            watch()
        except BaseException:
            if process is not None:
                end_group(process)
            raise
        return process.wait()

    def _begin(
        self, command: Sequence[str], output: BinaryIO | None, errors: BinaryIO | None
    ) -> subprocess.Popen | Forked:
        if command[0] in PROGRAMS:
            return fork(PROGRAMS[command[0]], command, output, errors)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output,
            stderr=errors or (subprocess.STDOUT if output else None),
            process_group=0, pass_fds=(self.lock,),
        )  # fmt: skip

    def run_whole(self, command: Sequence[str], output: Path, errors: Path | None = None) -> None:
        """Show and run a command; its ``output`` is there when it succeeded.

        Raises:
            RunFailed: it did not; its last line says why.
        """
        show(command)
        partial = output.with_suffix(".partial")
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(partial.open("wb"))
            err = stack.enter_context(errors.open("wb")) if errors else None
            status = self.run(command, out, err)
        if status != 0:
            raise RunFailed(f"{command[0]} failed: {last_line(errors or partial)}")
        os.replace(partial, output)


def message_of(error: BaseException) -> str:
    """An error's text, without the name of the package."""
    return str(error).removeprefix("fairseq_mem: ")


def end_group(process: subprocess.Popen | Forked) -> None:
    """End a process that leads a group, and the group: kindly, then by force."""
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


class Follower:
    """Reads the lines that are added to a file."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.file = path.open("rb")
        self.file.seek(0, os.SEEK_END)
        self.rest = b""

    def lines(self) -> list[str]:
        """The lines that were completed since the last call."""
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]

    def close(self) -> None:
        """Close the file; no more lines come."""
        self.file.close()


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a command's output that are not empty."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100_000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip()][-count:]


def last_line(path: Path) -> str:
    """The last line of a command's output, which mostly says why it failed."""
    return (last_lines(path, 1) or ["it said nothing"])[0]
