"""Thousands of requests, good and bad, against the server: `python benchmarks/soak.py --help`.

Every answer is compared with what the model says of that text alone; some clients go away before
theirs comes, some send what is no request. At the end nothing may be lost or mixed up, nothing may
wait any more, and the memory must not grow. All is on the loopback, bounded in number and time.
"""

import argparse
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == ROOT / "benchmarks":
    sys.path[:1] = [str(ROOT), str(ROOT / "serve")]

from fairseq_mem_text.arguments import positive  # noqa: E402

from benchmarks import serving  # noqa: E402

POOL = 300  # different sentences
BEAM = 2
JSON = {"Content-Type": "application/json"}
BROKEN = (
    (b"", 400), (b'{"q": ', 400), (b"[]", 400), (b'{"q": 1, "source": "a", "target": "b"}', 400),
    (b'{"q": "a", "source": "xx", "target": "yy"}', 400), (b"\xff" * 1000, 400),
    (b'{"q": "\\ud800", "source": "de", "target": "en"}', 400), (b"x" * (2 << 20), 413),
)  # fmt: skip
SIZES = (1, 1, 1, 1, 1, 2, 3, 5, 10, 40)  # sentences of a request


class Soak:
    """What is sent, and what came of it.

    Attributes:
        counts: of kinds of requests, and of ``lost`` and ``mixed up``.
    """

    def __init__(self, server: serving.Server, expected: dict[str, str], pair: dict[str, str]):
        self.server, self.expected, self.pair = server, expected, pair
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []
        self.memory: list[float] = []  # MiB, now and then
        self._lock = threading.Lock()

    def client(self, requests: "list[int]", until: float) -> None:
        """Send requests, taken from the end of a shared list of seeds."""
        connection = self.server.connect()
        while time.monotonic() < until:
            with self._lock:
                if not requests:
                    break
                seed = requests.pop()
                if len(requests) % 500 == 0:
                    self.memory.append(metric(self.server, "process_resident_memory_bytes") / 2**20)
            chance = random.Random(seed)
            kind = chance.choices(("good", "broken", "leaving"), (0.85, 0.1, 0.05))[0]
            try:
                result = getattr(self, f"_{kind}")(chance, connection)
            except OSError as error:
                result = "lost"
                self._keep(f"{kind} {seed}: {error!r}")
            if result != kind:
                connection.close()
            with self._lock:
                self.counts[result] += 1
        connection.close()

    def _keep(self, text: str) -> None:
        if len(self.examples) < 10:
            self.examples.append(text)

    def _body(self, chance: random.Random) -> tuple[bytes, list[str] | str]:
        """A request, and the answer that it must have."""
        texts = chance.choices(list(self.expected), k=chance.choice(SIZES))
        fields = {**self.pair, "beam": BEAM, "split_sentences": False}
        if chance.random() < 0.5:
            q: list[str] | str = texts
            answer: list[str] | str = [self.expected[text] for text in texts]
        else:
            gap = chance.choice(("\n", "\n\n", "\r\n"))
            q, answer = gap.join(texts), gap.join(self.expected[text] for text in texts)
        return json.dumps({"q": q, **fields}).encode(), answer

    def _good(self, chance: random.Random, connection: HTTPConnection) -> str:
        body, answer = self._body(chance)
        for _ in range(100):
            connection.request("POST", "/translate", body, JSON)
            response = connection.getresponse()
            content = json.loads(response.read())
            if response.status != 429:
                break
            self.counts["asked to wait"] += 1
            time.sleep(0.1)
        if response.status != 200:
            self._keep(f"{response.status}: {content}")
            return "lost"
        if content["translatedText"] != answer:
            self._keep(f"{content['translatedText']!r} is not {answer!r}")
            return "mixed up"
        return "good"

    def _broken(self, chance: random.Random, connection: HTTPConnection) -> str:
        body, status = chance.choice(BROKEN)
        connection.request("POST", "/translate", body, JSON)
        response = connection.getresponse()
        content = response.read()
        if response.status not in (status, 429) or "error" not in json.loads(content):
            self._keep(f"broken: {response.status}, not {status}: {content[:100]!r}")
            return "lost"
        if response.will_close:
            connection.close()
        return "broken"

    def _leaving(self, chance: random.Random, _: object) -> str:
        body, _answer = self._body(chance)
        head = f"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        sent = (head.encode() + body)[: chance.choice((10, len(head) + 5, None))]
        with socket.create_connection((serving.LOOPBACK, self.server.port), timeout=60) as left:
            left.sendall(sent)
            time.sleep(chance.choice((0, 0.01, 0.05)))
        return "leaving"


def metric(server: serving.Server, name: str) -> float:
    """A number of the server's."""
    connection = server.connect()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return float(found[1])


def main() -> int:
    """Soak; the exit status says whether all was well."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/soak.py",
        description="Send many requests, good and bad, and look whether all is answered rightly.",
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="made by fairseq-mem export")
    parser.add_argument("text", metavar="FILE", type=Path, help="raw text, a sentence a line")
    parser.add_argument("--requests", type=positive, default=20_000, metavar="N")
    parser.add_argument("--clients", type=positive, default=32, metavar="N")
    parser.add_argument("--seconds", type=positive, default=3600, metavar="S", help="at most")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="of the server")
    args = parser.parse_args()

    from fairseq_mem_serve import load_translator

    translator = load_translator(args.model, threads=1, inter_threads=args.threads)
    lines = (line.strip() for line in args.text.read_text(encoding="utf-8").split("\n"))
    pool = list(dict.fromkeys(line for line in lines if line))[:POOL]
    expected = {line: translator.translate([line], beam=BEAM)[0] for line in pool}
    pair = {"source": translator.source_language, "target": translator.target_language}
    del translator
    with serving.ours(args.model, "--threads", args.threads) as server:
        soak = Soak(server, expected, pair)
        requests = list(range(args.requests))
        until = time.monotonic() + args.seconds
        threads = [
            threading.Thread(target=soak.client, args=(requests, until))
            for _ in range(args.clients)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begun
        time.sleep(1)
        waits = metric(server, "fairseq_mem_queue_sentences")
        under_way = metric(server, "fairseq_mem_requests_under_way")
        memory = [*soak.memory, metric(server, "process_resident_memory_bytes") / 2**20]
        status = server.stop()
    half = len(memory) // 2
    # after the first half all buffers have been as large as they get
    grown = memory[-1] / max(memory[: half + 1]) - 1
    print(
        f"{dict(soak.counts)} in {seconds:.0f} s; {waits:.0f} sentences and {under_way:.0f} "
        f"requests left behind; exit status {status}; memory in MiB: "
        f"{', '.join(f'{mib:.0f}' for mib in memory)}; grown in the second half by {grown:.1%}"
    )
    for example in soak.examples:
        print(example)
    done = sum(soak.counts[kind] for kind in ("good", "broken", "leaving"))
    well = done == args.requests and not (waits or under_way or status) and grown < 0.05
    print("all was well" if well else "something was wrong")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
