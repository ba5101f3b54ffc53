"""Measure fairseq's models and ours side by side: `python benchmarks/run.py --help`."""

import argparse
import shlex
import signal
import sys
from pathlib import Path

# As a script only this folder is on the path; the suites are a package beside fairseq_mem.
ROOT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == ROOT / "benchmarks":
    sys.path[0] = str(ROOT)

from fairseq_mem_text.arguments import positive  # noqa: E402

ON_DEMAND = ("documents", "compile", "smoke", "waits", "memory", "together")
DTYPES = {"cpu": ("float32",), "cuda": ("fp16", "bf16", "float32")}


def suites() -> dict:
    """All suites. A new one is a file here and its name in this list."""
    from benchmarks import (
        compiled,
        documents,
        generation,
        language,
        length,
        memory,
        profiles,
        smoke,
        streams,
        together,
        training,
        waits,
    )

    modules = (
        *(training, generation, length, language, streams, profiles),
        *(documents, compiled, smoke, waits, memory, together),
    )
    return {module.SUITE.name: module.SUITE for module in modules}


def parser(found: dict) -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/run.py",
        description="Measure fairseq's models and ours in turn; write a table for each suite.",
    )
    made.add_argument(
        "--suites",
        nargs="+",
        choices=sorted(found),
        default=[name for name in found if name not in ON_DEMAND],
        help=f"default: all but {', '.join(ON_DEMAND)}",
    )
    made.add_argument("--device", choices=sorted(DTYPES), default="cpu")
    made.add_argument(
        "--dtype",
        choices=DTYPES["cuda"],
        help="default: float32 on cpu (the only one there), fp16 on cuda",
    )
    made.add_argument(
        "--sizes",
        nargs="+",
        choices=("small", "iwslt", "base", "big"),
        help="default: each suite's own",
    )
    made.add_argument(
        "--lengths",
        nargs="+",
        type=_length,
        metavar="N",
        help='source lengths; training also knows "real" (default: each suite\'s)',
    )
    made.add_argument(
        "--contestants",
        nargs="+",
        default=["*"],
        metavar="NAME",
        help="only these, * and ? may be used: fairseq 'mem-*' (default: all)",
    )
    made.add_argument("--rounds", type=positive, metavar="N", help="counted rounds (default 5)")
    made.add_argument(
        "--quick",
        action="store_true",
        help="does it run? one round of little; the figures mean nothing",
    )
    made.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results",
                      metavar="FOLDER", help="default: benchmarks/results")  # fmt: skip
    for suite in found.values():
        suite.add_options(made.add_argument_group(f"{suite.name} ({suite.title})"))
    return made


def _length(text: str) -> str | int:
    if text == "real":
        return text
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f'{text!r} is neither "real" nor a number above 1')
    return int(text)


def main() -> int:
    """Run the suites; one that fails leaves the others alone."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: keep what there is
    from benchmarks.measure import machine, one_line
    from benchmarks.models import quiet
    from benchmarks.report import Report

    found = suites()
    made = parser(found)
    options = made.parse_args()
    options.dtype = options.dtype or DTYPES[options.device][0]
    if options.dtype not in DTYPES[options.device]:
        made.error(f"--dtype {options.dtype} needs --device cuda")
    options.rounds = options.rounds or (1 if options.quick else 5)
    for suite in found.values():
        if suite.check:
            suite.check(made, options)
    if options.rounds < 1:
        made.error(f"--rounds {options.rounds}: give 1 or more")
    quiet()
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            made.error("--device cuda: torch sees no GPU here")
    where = machine(options.device)
    command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
    failed = False
    for name in options.suites:
        report = Report(name, found[name].title, options.results, where, command)
        try:
            found[name].run(options, report)
        except KeyboardInterrupt:
            report.note("Stopped before the end.")
            print(f"\nstopped; what was measured is in {options.results}", file=sys.stderr)
            return 130
        except Exception as error:  # the other suites still have something to say
            failed = True
            report.note(f"Ended early: {one_line(error)}")
            print(f"{name}: {one_line(error)}", file=sys.stderr)
        print(report.markdown(), end="\n\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
