"""The server against `fairseq-mem translate`, same lines: `python benchmarks/server.py --help`.

Each of so many clients sends a line, waits for its translation, and sends the next. All traffic is
on the loopback, bounded in number and time; the clients share the machine with the server.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == ROOT / "benchmarks":
    sys.path[0] = str(ROOT)

from fairseq_mem_text.arguments import positive  # noqa: E402

from benchmarks import serving  # noqa: E402
from benchmarks.measure import machine  # noqa: E402

MOST_SECONDS = 600  # for the clients of one round
JSON = {"Content-Type": "application/json"}


@dataclass
class Round:
    """What one way did in one round."""

    seconds: float
    sentences: int
    latencies: list[float] = field(default_factory=list)  # seconds, of each request

    @property
    def speed(self) -> float:
        """Sentences a second."""
        return self.sentences / self.seconds


def clients(server: serving.Server, count: int, lines: list[str], way: "Way") -> Round:
    """Let ``count`` clients send all lines, one each at a time.

    Raises:
        SystemExit: an answer is none, or it takes too long.
    """
    todo = iter(lines)
    lock = threading.Lock()
    latencies: list[float] = []
    wrong: list[str] = []
    end = time.monotonic() + MOST_SECONDS

    def client() -> None:
        connection = server.connect()
        while not wrong:
            with lock:
                line = next(todo, None)
            if line is None:
                break
            begun = time.perf_counter()
            try:
                connection.request("POST", way.path, json.dumps(way.body(line)).encode(), JSON)
                response = connection.getresponse()
                content = response.read()
            except OSError as error:
                wrong.append(repr(error))
                break
            latencies.append(time.perf_counter() - begun)
            if response.status != 200 or time.monotonic() > end:
                wrong.append(f"status {response.status}: {content[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(count)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    if wrong or len(latencies) != len(lines):
        raise SystemExit(f"{way.name}: {(wrong or ['answers are missing'])[0]}")
    return Round(seconds, len(lines), latencies)


@dataclass
class Way:
    """A server, and how it is asked."""

    name: str
    server: serving.Server
    path: str
    body: Callable[[str], Any]


def translate(model: str, lines: list[str], threads: int) -> Round:
    """`fairseq-mem translate`, without what it takes to start and to load the model."""

    def seconds(text: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.write_text(text, encoding="utf-8")
            words = [sys.executable, "-m", "fairseq_mem", "translate", model, "--input", source]
            words += ["--output", Path(folder) / "target", "--threads", threads]
            begun = time.perf_counter()
            subprocess.run([*map(str, words)], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
            return time.perf_counter() - begun

    empty = seconds("\n")
    return Round(seconds("".join(f"{line}\n" for line in lines)) - empty, len(lines))


def percentile(values: list[float], share: float) -> float:
    """The value below which so large a share is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(rounds: dict[str, list[Round]], baseline: str) -> list[str]:
    """Markdown."""
    lines = [
        "| | sentences/s | x translate [least, most] | median ms | 99th percentile ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found in rounds.items():
        speed = statistics.median(r.speed for r in found)
        ratios = [r.speed / b.speed for r, b in zip(found, rounds[baseline], strict=True)]
        shown = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        latencies = [1000 * latency for r in found for latency in r.latencies]
        times = [
            f"{percentile(latencies, share):.0f}" if latencies else "" for share in (0.5, 0.99)
        ]
        lines.append(f"| {name} | {speed:.1f} | {shown} | {' | '.join(times)} |")
    return lines


def main() -> None:
    """Measure, in rounds, each way in each of them."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/server.py",
        description="Measure fairseq-mem-serve on the loopback against fairseq-mem translate, and "
        "against the http.server of serve/README.md.",
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="made by fairseq-mem export")
    parser.add_argument("text", metavar="FILE", type=Path, help="raw text, a sentence a line")
    parser.add_argument("--clients", type=positive, nargs="+", default=[1, 8, 64], metavar="N")
    parser.add_argument("--lines", type=positive, default=1000, metavar="N", help="of FILE (1000)")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="default 3")
    parser.add_argument(
        "--threads",
        type=positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="of all ways",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all samples as JSON")
    args = parser.parse_args()
    given = args.text.read_text(encoding="utf-8").split("\n")
    lines = [line for line in given if line.strip()][: args.lines]
    if not lines:
        parser.error(f"{args.text} has no text")

    with (
        serving.ours(args.model, "--threads", args.threads, "--max-requests", 1000) as server,
        serving.of_readme(args.model, args.threads) as simple,
    ):
        languages = json.loads(_get(server, "/languages"))
        pair = {"source": languages[0]["code"], "target": languages[0]["targets"][0]}
        ways = [
            Way(
                "fairseq-mem-serve", server, "/translate",
                lambda line: {"q": line, "split_sentences": False, **pair},
            ),
            Way("http.server", simple, "/", lambda line: [line]),
        ]  # fmt: skip
        for way in ways:
            clients(way.server, 4, lines[:20], way)  # the first ones are slow
        rounds: dict[str, list[Round]] = {"fairseq-mem translate": []}
        for number in range(1, args.rounds + 1):
            rounds["fairseq-mem translate"].append(translate(args.model, lines, args.threads))
            for way in ways:
                for count in args.clients:
                    name = f"{way.name}, {count} client{'s' * (count > 1)}"
                    # one client alone need not send all of them
                    some = lines if count > 1 else lines[: max(50, len(lines) // 10)]
                    rounds.setdefault(name, []).append(clients(way.server, count, some, way))
            print(f"round {number} of {args.rounds}", file=sys.stderr)
    print("\n".join(table(rounds, "fairseq-mem translate")))
    if args.out:
        samples = {name: [vars(r) for r in found] for name, found in rounds.items()}
        record = {"command": sys.argv, "machine": machine("cpu"), "rounds": samples}
        args.out.write_text(json.dumps(record, default=str), encoding="utf-8")


def _get(server: serving.Server, path: str) -> bytes:
    connection = server.connect()
    connection.request("GET", path)
    content = connection.getresponse().read()
    connection.close()
    return content


if __name__ == "__main__":
    main()
