"""The stages of `preprocess.sh` as commands, which it shows and runs."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .arguments import count, positive
from .checks import check_pair, verify
from .progress import show
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
        documents=arguments.documents,
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


def build_parser() -> tuple[argparse.ArgumentParser, Any]:
    """The parser, and its sub-parsers."""
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mem_text", description="preprocess.sh and its stages."
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
    added.add_argument(
        "--documents", action="store_true", help="empty lines end documents: OUTPUT.documents"
    )
    added.add_argument("--min-words", type=count, default=1)
    added.add_argument("--max-words", type=positive, default=250)
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
    return parser, commands


def run_stage(words: Sequence[object]) -> None:
    """Show a command of ours, and do it in this process.

    Raises:
        TextError: it failed.
    """
    texts = [str(word) for word in words]
    show([sys.executable, "-m", "fairseq_mem_text", *texts])
    arguments = build_parser()[0].parse_args(texts)
    arguments.run(arguments)
