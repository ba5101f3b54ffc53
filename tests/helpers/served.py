"""A translation server as a process of its own, and a client that sends what it is told to."""

import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

SERVE = Path(__file__).resolve().parents[2] / "serve"
HANGS = 300  # seconds; on a busy machine all may take its time


class Answer(NamedTuple):
    """What came back."""

    status: int
    json: Any
    headers: dict[str, str]
    body: bytes


class Server:
    """`fairseq-mem-serve` on a free port of the loopback; ends with the block.

    Attributes:
        log: what it wrote to standard error so far.
    """

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.log = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        words = [sys.executable, "-m", "fairseq_mem_serve.http", *map(str, arguments)]
        path = os.pathsep.join([str(SERVE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*words, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(environment or {})},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(re.search(r":(\d+)\n", self.wait_for("ready on"))[1])

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log += line
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, what: str) -> str:
        """The next line of the log that has it."""
        while (line := self._lines.get(timeout=HANGS)) is not None:
            if what in line:
                return line
        raise AssertionError(f"no line with {what!r}:\n{self.log}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=HANGS)

    def stop(self) -> int:
        """Tell it to stop; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=HANGS)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANGS)

    def ask(
        self,
        path: str = "/translate",
        body: Any = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request; what is no bytes goes as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        connection = self.connect()
        try:
            connection.request(
                method or ("GET" if body is None else "POST"), path, body, headers or {}
            )
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        kind = response.headers.get_content_type()
        parsed = json.loads(content) if kind == "application/json" else None
        lower = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, parsed, lower, content)

    def translate(self, q: Any, **fields: Any) -> Any:
        """The answer to a good request."""
        answer = self.ask(body={"q": q, "source": "de", "target": "en", **fields})
        assert answer.status == 200, answer
        return answer.json

    def metric(self, name: str) -> float:
        """A number out of /metrics."""
        text = self.ask("/metrics").body.decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])
