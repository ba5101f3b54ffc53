"""``python -m fairseq_mem_text COMMAND``: what `preprocess.sh` runs, and its stages alone."""

import argparse
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

from .arguments import count, positive
from .errors import TextError
from .files import cannot_write
from .preparing import Request, prepare
from .progress import hold_closed_streams, say
from .stages import build_parser


def add_prepare(commands: Any) -> None:
    """Add `preprocess.sh` itself; it checks its options and explains them."""
    parser = commands.add_parser("prepare", help="what preprocess.sh runs; see there")
    for name in ("source", "target", "train", "valid"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-ratio", required=True)
    for name in ("bpe", "max-words", "max-positions", "workers"):
        parser.add_argument(f"--{name}", type=positive, required=True)
    parser.add_argument("--min-words", type=count, required=True)
    switches = ("separate", "no-normalize", "no-nfc", "remove-nonprinting", "dedup", "documents")
    for name in (*switches, "redo"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.set_defaults(run=run_prepare)


def run_prepare(arguments: argparse.Namespace) -> None:
    """Make data of raw text."""
    prefixes = {"train": arguments.train, "valid": arguments.valid, "test": arguments.test}
    prepare(
        Request(
            source=arguments.source,
            target=arguments.target,
            prefixes={split: prefix for split, prefix in prefixes.items() if prefix},
            out=arguments.out,
            bpe=arguments.bpe,
            separate=arguments.separate,
            normalize=not arguments.no_normalize,
            nfc=not (arguments.no_nfc or arguments.no_normalize),
            remove_nonprinting=arguments.remove_nonprinting,
            min_words=arguments.min_words,
            max_words=arguments.max_words,
            max_ratio=arguments.max_ratio,
            dedup=arguments.dedup,
            documents=arguments.documents,
            max_positions=arguments.max_positions,
            workers=arguments.workers,
            redo=arguments.redo,
        )
    )


def stop(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong, and end."""
    say(f"preprocess.sh: {message}")  # which is what people call
    sys.exit(status)


def main() -> None:
    """Run one command."""
    hold_closed_streams()
    parser, commands = build_parser()
    add_prepare(commands)
    arguments = parser.parse_args()
    # A polite kill is an interruption too, so that partial files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments.run(arguments)
    except TextError as error:
        stop(str(error))
    except BrokenProcessPool:
        stop("a worker process was killed (out of memory?); run again with fewer --workers")
    except OSError as error:
        stop(str(cannot_write(str(error.filename or getattr(arguments, "out", "")), error)))
    except KeyboardInterrupt:
        stop("interrupted; run the same command again to continue", 130)


if __name__ == "__main__":
    main()
