"""`fairseq-mem attention`: what a model's memory writes, reads and is read by."""

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mem_text.arguments import positive
from fairseq_mem_text.lines import never_ends

from ..errors import UserError

if TYPE_CHECKING:
    from .insight.averages import Averages
    from .insight.reader import Reader

Line = tuple[int, str, str | None]  # its number from 1, the text, and its translation if given


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "attention",
        help="show what memory attends to, and who attends to memory",
        description="Reads raw text with a translation model, a language model, Transformer-XL or "
        "a sentence encoder. Writes a page (HTML, one file) and the raw weights of the first "
        "lines, and, of a file with more than one line, averages over all of them: tables, CSV "
        "and charts.",
        epilog="For example: fairseq-mem attention checkpoint_best.pt --input test.de --target "
        "test.en --out attention",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint (.pt)")
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE",
        help="raw text, a sentence a line (Transformer-XL: a text a line)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument(
        "--target", type=Path, metavar="FILE",
        help="raw translations, a line for each of --input (default: the model's own)",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", type=Path, metavar="MODEL",
        help="another model, whose averages over the same text are set beside: one without memory",
    )  # fmt: skip
    parser.add_argument(
        "--pages", type=_count, default=1, metavar="N",
        help="how many lines, from the first, get a page of their own (default 1)",
    )  # fmt: skip
    parser.add_argument("--png", action="store_true", help="also a PNG of each map, for papers")
    parser.add_argument(
        "--data", type=Path, metavar="DATA_BIN",
        help="the folder of the dictionaries (default: what the model learned from)",
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", choices=("moses", "none"),
        help="of the data's text (default: what preprocess.sh did, none for other data)",
    )  # fmt: skip
    parser.add_argument(
        "--bpe-codes", type=Path, metavar="FILE", help="BPE merges (default: DATA_BIN/code)"
    )
    parser.add_argument("--beam", type=positive, default=4, metavar="N", help="default: 4")
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="lines a batch (default: 16)"
    )
    return parser


def _each_line(path: Path, option: str) -> Iterator[str]:
    """The lines of a UTF-8 text, as `lines.read_lines` counts them, one at a time.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or is a device.
    """
    try:
        with path.open("rb") as file:
            if never_ends(file):
                raise UserError(f"{option} {path} is a device that never ends; give a text")
            if not file.seekable():  # there would be nothing left the second time
                raise UserError(
                    f"{option} {path} is a pipe and is read more than once; give a file"
                )
            for number, line in enumerate(file, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UserError(f"cannot read {option} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{option} {path}: line {number} is not valid UTF-8; convert it") from None


def _read_input(args: argparse.Namespace) -> Iterator[Line]:
    """The lines that have words.

    Raises:
        UserError: the translations are not theirs.
    """
    sources: Iterator[str | None] = _each_line(args.input, "--input")
    targets: Iterator[str | None] = repeat(None)
    if args.target is not None:
        targets = chain(_each_line(args.target, "--target"), repeat(None))
        sources = chain(sources, [None])
    for number, (source, target) in enumerate(zip(sources, targets), 1):
        if args.target is not None and (source is None) != (target is None):
            longer = args.input if target is None else args.target
            raise UserError(
                f"{longer} has more lines than the other of --input and --target; give the "
                "translations of these very lines"
            )
        if source is not None and source.strip():
            yield number, source, target


def _batches(reader: "Reader", whole: Iterator[Line], size: int) -> Iterator[tuple[list[Any], Any]]:
    """The numbers of the words, side by side: sources, and targets or None."""
    while some := list(islice(whole, size if reader.batches else 1)):
        sources, targets = [], []
        for number, source, target in some:
            try:
                words = reader.encode(source)
                if target is not None:
                    targets.append(reader.encode(target, 1))
                sources.append(words)
            except ValueError as error:
                print(f"line {number} is left out: {error}", file=sys.stderr)
        if sources:
            yield sources, targets or None


def _average(reader: "Reader", count: int, args: argparse.Namespace) -> "Averages":
    from tqdm import tqdm

    from .insight.averages import Averages

    averages = Averages()
    with tqdm(total=count, desc=reader.name, unit=" lines", disable=None) as bar:
        for sources, targets in _batches(reader, _read_input(args), args.batch_size):
            averages.add(reader.read(sources, targets, args.beam))
            bar.update(len(sources))
    if averages.sentences == 0:
        raise UserError(f"{args.input} has no line that the model can read")
    return averages


def _show(reader: "Reader", line: Line, args: argparse.Namespace) -> Path:
    """One line's page, weights and pictures; returns the page."""
    from .insight import sentence

    number, source, target = line
    try:
        words = reader.encode(source)
        targets = None if target is None else [reader.encode(target, 1)]
    except ValueError as error:
        raise UserError(f"line {number} of {args.input}: {error}") from None
    reading = reader.read([words], targets, args.beam)
    pad = reader.source_words[reader.source_words.pad()]
    shown = sentence.pictures(reading, pad)
    if not shown:
        raise UserError(f"{args.model} has no attention that could be recorded")
    texts = [("text", source)]
    if reading.written is not None:
        name = "its translation" if target is not None else "the model's translation"
        texts.append((name, " ".join(reading.written[0][:-1]).replace("@@ ", "")))
    has_sink = any(name.endswith("controls.sink") for name, _ in reader.model.named_parameters())
    path = args.out / f"sentence-{number}.html"
    rows = "."
    if reading.written is not None:
        rows = "; rows of the decoder are named by the word that is written there."
    foot = (
        f"{reader.name} ({reader.family}). mem: memory slots, numbered from 0; all else is named "
        f"by the word that is read there{rows} The exact weights are in sentence-{number}.npz."
    )
    sentence.write_weights(path.with_suffix(".npz"), shown)
    title = source if len(source) <= 80 else f"{source[:79]}…"
    sentence.write_page(path, shown, f"Attention: {title}", texts, has_sink, foot)
    if args.png:
        sentence.write_pictures(args.out / f"sentence-{number}", shown, every_head=True)
    return path


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..runs import charts
    from .insight import tables
    from .insight.reader import TRANSLATION, Reader

    charts.new_figure(1, 1)  # is matplotlib there? later is too late
    count = sum(1 for _ in _read_input(args))
    if count == 0:
        raise UserError(f"{args.input} has no text; give a sentence a line")
    reader = Reader(args.model, args.data, args.tokenizer, args.bpe_codes)
    if args.target is not None and reader.family != TRANSLATION:
        raise UserError(f"--target {args.target}: {args.model} does not translate; leave it out")
    if reader.of_documents:
        print(
            f"fairseq-mem: {args.model} is a model of documents; every line is read as a document "
            "of its own, with fresh memory",
            file=sys.stderr,
        )
    baseline = None
    if args.baseline is not None:
        baseline = Reader(args.baseline, args.data, args.tokenizer, args.bpe_codes)
        if baseline.family != reader.family:
            raise UserError(
                f"{args.baseline} is a {baseline.family} model and {args.model} a "
                f"{reader.family} model; give two of one kind"
            )
    for line in islice(_read_input(args), args.pages):
        print(_show(reader, line, args))
    if count > 1 or baseline is not None:
        named = [(reader.name, _average(reader, count, args))]
        if baseline is not None:
            name = baseline.name if baseline.name != reader.name else f"{baseline.name} (baseline)"
            named.append((name, _average(baseline, count, args)))
        tables.write_corpus(args.out, named)
        print(f"{args.out / 'attention.md'}: {named[0][1].sentences:,} sentences")
