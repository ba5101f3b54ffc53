"""Servers of the loopback for the benchmark and the soak test: started, asked, stopped."""

import http.client
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
MOST_SECONDS = 120  # for a start, or an answer
LINES_KEPT = 2000


class Server:
    """A process that answers on the loopback; ends with the block.

    Args:
        command: what starts it.
        port: where it will listen; None if it says so in a line of standard error, "ready on".
    """

    def __init__(self, command: list[str], port: int | None = None) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "serve"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_KEPT)
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.port = port or self._told()
            self._wait()
        except BaseException:
            self.process.kill()
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not self._lines.full():  # else nobody reads them any more
                self._lines.put(line)
        self._lines.put(None)

    def _told(self) -> int:
        said = ""
        while (line := self._lines.get(timeout=MOST_SECONDS)) is not None:
            said += line
            if found := re.search(r"ready on http://\S+:(\d+)$", line.rstrip()):
                return int(found[1])
        raise SystemExit(f"the server did not start:\n{said}")

    def _wait(self) -> None:
        end = time.monotonic() + MOST_SECONDS
        while True:
            try:
                socket.create_connection((LOOPBACK, self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.05)

    def connect(self) -> http.client.HTTPConnection:
        """A connection, which several requests may use one after the other."""
        return http.client.HTTPConnection(LOOPBACK, self.port, timeout=MOST_SECONDS)

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Tell it to stop; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(MOST_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def ours(model: str, *options: object) -> Server:
    """`fairseq-mem-serve` on a port that is free."""
    words = [sys.executable, "-m", "fairseq_mem_serve.http", model, "--port", 0, "--no-access-log"]
    return Server([*map(str, [*words, *options])])


def of_readme(model: str, threads: int) -> Server:
    """The ten lines of `http.server` in serve/README.md, on another port."""
    text = (ROOT / "serve" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import json\nfrom http\.server.*?)```", text, re.DOTALL)
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    for old, new in (
        ('load_translator("exported", threads=1, inter_threads=4)',
         f"load_translator({model!r}, threads=1, inter_threads={threads})"),
        ("8000", str(port)),
        # of 64 that come at the same time it would reset some
        ("ThreadingHTTPServer((",
         "ThreadingHTTPServer.request_queue_size = 128\nThreadingHTTPServer(("),
        ("class Handler(BaseHTTPRequestHandler):",
         "class Handler(BaseHTTPRequestHandler):\n    log_message = lambda *_: None\n"
         '    protocol_version = "HTTP/1.1"'),
    ):  # fmt: skip
        assert old in code, f"serve/README.md has no {old!r} any more"
        code = code.replace(old, new)
    return Server([sys.executable, "-c", code], port)
