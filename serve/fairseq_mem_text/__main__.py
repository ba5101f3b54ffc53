"""The stages of `preprocess.sh`: ``python -m fairseq_mem_text COMMAND``, see ``--help``."""

import argparse
import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

from .arguments import positive
from .checks import check_pair, verify
from .errors import TextError
from .progress import say
from .segmenting import apply_bpe, learn_bpe
from .tokenizing import Limits, tokenize


def run_check(arguments: argparse.Namespace) -> None:
    """Print `sha256 lines` of the source and of the target file."""
    for digest, lines in check_pair(arguments.files, arguments.max_tokens):
        print(digest, lines)


def run_tokenize(arguments: argparse.Namespace) -> None:
    """Tokenise raw pairs."""
    limits = Limits(arguments.min_words, arguments.max_words, arguments.max_ratio, arguments.dedup)
    tokenize(
        arguments.source,
        arguments.target,
        arguments.output,
        [arguments.source_lang, arguments.target_lang],
        normalize=not arguments.no_normalize,
        remove_nonprinting=arguments.remove_nonprinting,
        nfc=arguments.nfc,
        limits=limits if arguments.clean else None,
        workers=arguments.workers,
    )


def run_learn_bpe(arguments: argparse.Namespace) -> None:
    """Learn merges."""
    learn_bpe(arguments.files, arguments.output, arguments.merges, arguments.workers)


def run_apply_bpe(arguments: argparse.Namespace) -> None:
    """Split words by merges."""
    apply_bpe(
        arguments.input,
        arguments.output,
        arguments.codes,
        arguments.max_tokens,
        arguments.workers,
    )


def run_verify(arguments: argparse.Namespace) -> None:
    """Compare binarised data with its text."""
    verify(arguments.text, arguments.binarized)


def arguments_from_command_line() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mem_text", description="The stages of preprocess.sh."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    added = command("check", run_check, "print sha256 and line count of raw parallel files")
    added.add_argument("--max-tokens", type=positive, help="refuse longer lines")
    added.add_argument("files", nargs="+")

    added = command("tokenize", run_tokenize, "raw pairs -> OUTPUT.LANG, tokenised")
    added.add_argument("--source-lang", required=True)
    added.add_argument("--target-lang", required=True)
    added.add_argument("--no-normalize", action="store_true", help="leave punctuation as it is")
    added.add_argument(
        "--remove-nonprinting", action="store_true", help="remove control characters"
    )
    added.add_argument("--nfc", action="store_true", help="compose characters before")
    added.add_argument("--clean", action="store_true", help="drop pairs by length and ratio")
    added.add_argument("--dedup", action="store_true", help="with --clean: drop repeated pairs")
    added.add_argument("--min-words", type=int, default=1)
    added.add_argument("--max-words", type=int, default=250)
    added.add_argument("--max-ratio", type=float, default=1.5)
    added.add_argument("--workers", type=positive, default=1)
    added.add_argument("source")
    added.add_argument("target")
    added.add_argument("output")

    added = command("learn-bpe", run_learn_bpe, "learn merges from tokenised text")
    added.add_argument("--merges", type=positive, required=True)
    added.add_argument("--workers", type=positive, default=1)
    added.add_argument("--output", required=True)
    added.add_argument("files", nargs="+")

    added = command("apply-bpe", run_apply_bpe, "split words by the merges")
    added.add_argument("--codes", required=True)
    added.add_argument("--max-tokens", type=positive, help="refuse longer lines")
    added.add_argument("--workers", type=positive, default=1)
    added.add_argument("input")
    added.add_argument("output")

    added = command("verify", run_verify, "compare binarised data with its text")
    added.add_argument("text")
    added.add_argument("binarized", help="without .bin and .idx")
    return parser.parse_args()


def stop(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong, and end."""
    say(f"preprocess.sh: {message}")  # which is what people call
    sys.exit(status)


def main() -> None:
    """Run one stage."""
    arguments = arguments_from_command_line()
    # A polite kill is an interruption too, so that partial files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments.run(arguments)
    except TextError as error:
        stop(str(error))
    except BrokenProcessPool:
        stop("a worker process was killed (out of memory?); run again with fewer --workers")
    except ImportError as error:
        stop(f"{error}; install the requirements with `make install`, or set PYTHON")
    except KeyboardInterrupt:
        stop("interrupted; run the same command again to continue", 130)


if __name__ == "__main__":
    main()
