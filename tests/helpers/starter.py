"""Starts commands as forks of a process that has imported torch and fairseq.

A command takes four seconds to import them, more than most tests take for the rest. All else is as
if it had been started anew: arguments, environment, folder, standard streams, exit status; the
package itself is imported by the command, as `--user-dir` or its console script does.

Run as a program it is the server: `starter.py SOCKET`.
"""

import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

HEAVY = (
    "torch", "fairseq", "fairseq.tasks.translation", "fairseq.trainer", "fairseq.options",
    "fairseq.checkpoint_utils", "fairseq.scoring", "sacrebleu",
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
    logging.getLogger().handlers.clear()  # fairseq's programs set them before they import the rest
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
    """Read a request, start the command, tell its number and then its status."""
    with link.makefile() as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        link.close()
        begin(request["words"], request["env"], request["cwd"], request["std"])
    link.sendall(f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    link.sendall(f"{status}\n".encode())
    os._exit(0)


def begin(words: list[str], env: dict[str, str], cwd: str, std: str) -> NoReturn:
    """Become the command."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number in range(3):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(f"{std}/{number}", flags, 0o600), number)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    runpy.run_path(words[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve(sys.argv[1])
