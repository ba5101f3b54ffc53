"""Starts commands as forks of a process that has imported torch and fairseq.

A command takes four seconds to import them, more than most tests take for the rest. All else is as
if it had been started anew: arguments, environment, folder, standard streams, exit status; the
package itself is imported by the command, as `--user-dir` or its console script does.

Scripts get them by way of :attr:`Starter.programs`, a folder to put in front of PATH.

Run as a program it is the server: `starter.py SOCKET`.
"""

import atexit
import contextlib
import gc
import json
import logging
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

HEAVY = (
    "torch", "fairseq", "fairseq.tasks.translation", "fairseq.trainer", "fairseq.options",
    "fairseq.checkpoint_utils", "fairseq.scoring", "sacrebleu", "torch._dynamo", "torch.profiler",
    "scipy.stats", "sklearn.metrics", "sacremoses", "subword_nmt.apply_bpe", "regex", "mpmath",
)  # fmt: skip


class Starter:
    """The server's other end: :meth:`run` is `subprocess.run` for a Python program's path."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="starter-")
        self.path = f"{self.folder.name}/socket"
        self.server = subprocess.Popen(
            [sys.executable, __file__, self.path],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE,
        )  # fmt: skip
        while not os.path.exists(self.path):
            assert self.server.poll() is None, "the starter of commands ended"
            time.sleep(0.02)
        self.programs = Path(self.folder.name, "bin")
        self._write_programs()

    def _write_programs(self) -> None:
        """In the place of the environment's commands, small ones that ask the server for a fork.

        Of Python's, what runs a module of ours or a file of the repository.
        """
        self.programs.mkdir()
        real = Path(sys.executable).parent
        ask = shlex.join(
            [sys.executable, "-IS", str(Path(__file__).with_name("ask.py")), self.path]
        )
        cases = f'-m) case $2 in fairseq_mem*) exec {ask} "$@" ;; esac ;;\n'
        cases += f'*.py) exec {ask} "$@" ;;\n'
        texts = {"python": f'case $1 in {cases}esac\nexec {sys.executable} "$@"\n'}
        for path in [*real.glob("fairseq-*"), real / "sacrebleu"]:
            texts[path.name] = f'exec {ask} {path} "$@"\n'
        for name, text in texts.items():
            program = self.programs / name
            program.write_text(f"#!/bin/sh\n{text}")
            program.chmod(0o755)

    def run(
        self, words: list[str], stdin: str, env: dict[str, str], cwd=None, timeout=None
    ) -> subprocess.CompletedProcess:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as link:
            Path(folder, "0").write_text(stdin, encoding="utf-8")
            link.connect(self.path)
            link.settimeout(timeout)
            request = {"words": words, "env": env, "cwd": str(cwd or os.getcwd()), "std": folder}
            link.sendall(json.dumps(request).encode() + b"\n")
            with link.makefile() as answers:
                pid = int(answers.readline())
                try:
                    status = int(answers.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(words, timeout or 0) from None
            out, err = (Path(folder, name).read_text(encoding="utf-8") for name in "12")
        return subprocess.CompletedProcess(words, status, out, err)


def serve(path: str) -> None:
    """Fork for each request, until standard input ends with the process that began this one."""
    for name in HEAVY:
        __import__(name)
    gc.collect()
    gc.freeze()  # what a fork does not look at, it need not copy
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(8)
    os.rename(path + ".new", path)
    if os.fork() == 0:  # ends them all with the tests
        sys.stdin.read()
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while True:
        link, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            attend(link)
        link.close()


def attend(link: socket.socket) -> None:
    """Read a request, start the command, tell its number and then its status.

    Who asked may send the numbers of signals. A command whose asker is gone is killed.
    """
    text, streams = b"", []
    while not text.endswith(b"\n"):
        more, descriptors, _, _ = socket.recv_fds(link, 1 << 16, 3)
        text += more
        streams += descriptors
    request = json.loads(text)
    pid = os.fork()
    if pid == 0:
        link.close()
        os.setpgid(0, 0)
        if not streams:
            flags = (os.O_RDONLY, *2 * [os.O_WRONLY | os.O_CREAT])
            streams = [os.open(f"{request['std']}/{n}", flags[n], 0o600) for n in range(3)]
        begin(request["words"], request["env"], request["cwd"], streams)
    for descriptor in streams:
        os.close(descriptor)
    link.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    while ended not in select.select([ended, link], [], [])[0]:
        for number in link.recv(16) or bytes([signal.SIGKILL]):
            for kill, whom in ((os.killpg, pid), (os.kill, pid)):  # it may not lead its group yet
                with contextlib.suppress(ProcessLookupError):
                    kill(whom, number)
                    break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        link.sendall(f"{status}\n".encode())
    os._exit(0)


def begin(words: list[str], env: dict[str, str], cwd: str, streams: list[int]) -> NoReturn:
    """Become the command: a file of Python's, or ``-m`` and a module."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in streams:
        if descriptor > 2:
            os.close(descriptor)
    if Path(words[0]).name != "fairseq-generate":  # the others choose before they import the rest
        logging.getLogger().handlers.clear()
    asked = [str(Path(cwd, one)) for one in env.get("PYTHONPATH", "").split(os.pathsep) if one]
    sys.path[1:] = [*asked, *(one for one in sys.path[1:] if one not in asked)]
    end(status_of(words, cwd))


def status_of(words: list[str], cwd: str) -> int:
    """Run it; the exit status, as Python's own."""
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], cwd
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as told:
        if told.code is None or isinstance(told.code, int):
            return (told.code or 0) & 255
        print(told.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(status: int) -> NoReturn:
    """As Python ends, but for taking torch and all else apart, which takes a second of its own."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            status = 120
            os.write(2, f"Exception ignored in: {stream!r}\n{error!r}\n".encode())
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
