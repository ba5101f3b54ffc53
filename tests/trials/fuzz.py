"""Fuzz our parsers, led by what is reached in them: python tests/trials/fuzz.py [PARSER ...].

It needs atheris (``pip install atheris``; no environment of this repository has it). Each parser
is fuzzed ``--seconds`` long in a process of its own. What a parser raises and did not say ends its
turn: the bytes are printed, and are to become a case in ``test_fuzzed_parsers.py``.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("", "serve", "tests")]


def quoted(word: bytes) -> str:
    """A line of a fuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def fuzz(atheris: Any, parsers: Any, name: str, seconds: int, folder: Path) -> None:
    """Fuzz one parser; the fuzzer ends this process."""
    parser = parsers.PARSERS[name]
    (folder / "corpus").mkdir()
    for number, sample in enumerate(parser.samples):
        (folder / "corpus" / str(number)).write_bytes(sample)
    options = [
        f"-max_total_time={seconds}", "-max_len=6000", "-timeout=60", "-rss_limit_mb=6000",
        f"-artifact_prefix={folder}/", "-print_final_stats=1",
    ]  # fmt: skip
    if parser.words:
        (folder / "words").write_text("".join(map(quoted, parser.words)))
        options.append(f"-dict={folder / 'words'}")

    def one(data: bytes) -> None:
        try:
            parsers.check(name, data)
        except BaseException:
            print(f"\n{name}: {data!r}", file=sys.stderr, flush=True)
            raise

    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz all that are named, one after another."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("parsers", nargs="*", metavar="PARSER", help="default: all")
    command.add_argument("--seconds", type=int, default=60, help="each (default 60)")
    args = command.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz.py: there is no atheris; run: pip install atheris")
    sys.stderr = open(os.devnull, "w")  # it names every module
    with atheris.instrument_imports(
        include=["fairseq_mem", "fairseq_mem_text", "fairseq_mem_serve", "examples"]
    ):
        from helpers import parsers
    sys.stderr = sys.__stderr__
    if unknown := set(args.parsers) - set(parsers.PARSERS):
        command.error(f"no parser {min(unknown)!r}; there are: {', '.join(parsers.PARSERS)}")
    failed = 0
    for name in args.parsers or parsers.PARSERS:
        with tempfile.TemporaryDirectory() as made:
            log = Path(made, "log")
            pid = os.fork()
            if pid == 0:  # libFuzzer writes to the descriptor
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
                sys.stderr = open(2, "w", closefd=False)
                try:
                    fuzz(atheris, parsers, name, args.seconds, Path(made))
                finally:
                    os._exit(70)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said = log.read_text(errors="replace")
        tried = re.search(r"number_of_executed_units: (\d+)", said)
        print(f"{name}: {tried[1] if tried else '?'} inputs, status {status}", flush=True)
        if status:
            failed += 1
            print("\n".join(said.splitlines()[-40:]), flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
