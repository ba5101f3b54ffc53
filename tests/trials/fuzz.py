"""Fuzz our parsers, led by what is reached in them: python tests/trials/fuzz.py [PARSER ...].

It needs atheris (``pip install atheris``; no environment of this repository has it). Each parser
is fuzzed ``--seconds`` long in a process of its own. What a parser raises and did not say ends its
turn: the bytes are printed, and are to become a case in ``test_fuzzed_parsers.py``.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("", "serve", "tests")]


def quoted(word: bytes) -> str:
    """A line of a fuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one parser; the fuzzer ends this process."""
    import atheris

    with atheris.instrument_imports(
        include=["fairseq_mem", "fairseq_mem_text", "fairseq_mem_serve"]
    ):
        from helpers import parsers

    parser = parsers.PARSERS[name]
    folder = Path(tempfile.mkdtemp(dir=parsers.scratch()))
    (folder / "corpus").mkdir()
    for number, sample in enumerate(parser.samples):
        (folder / "corpus" / str(number)).write_bytes(sample)
    (folder / "words").write_text("".join(map(quoted, parser.words)))
    options = [
        f"-max_total_time={seconds}", "-max_len=6000", "-timeout=60",
        "-rss_limit_mb=4000", f"-artifact_prefix={folder}/", "-print_final_stats=1",
    ]  # fmt: skip
    if parser.words:
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
    command.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = command.parse_args()
    if args.here:
        fuzz(args.parsers[0], args.seconds)
    from helpers import parsers

    if unknown := set(args.parsers) - set(parsers.PARSERS):
        command.error(f"no parser {min(unknown)!r}; there are: {', '.join(parsers.PARSERS)}")
    failed = []
    for name in args.parsers or parsers.PARSERS:
        words = [sys.executable, __file__, "--here", "--seconds", str(args.seconds), name]
        done = subprocess.run(words, capture_output=True, cwd=tempfile.gettempdir())
        said = done.stderr.decode("utf-8", "replace").splitlines()
        tried = [line for line in said if "number_of_executed_units" in line]
        print(f"{name}: status {done.returncode}; {' '.join(tried)}", flush=True)
        if done.returncode:
            failed.append(name)
            print("\n".join(said[-40:]), flush=True)
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main())
