"""`fairseq-mem score`: how probable given translations are, of raw text, with any model.

Line N of the output belongs to line N of the files. With `--contrastive` each line of a test set
has a source and several translations of it, and the question is which one the model prefers.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from fairseq_mem_text.arguments import finite, positive
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.lines import is_empty, read_lines

from ..errors import UserError, first_line
from .translate.command import NOT_ALL, add_data_options, load
from .translate.streams import Progress, written

if TYPE_CHECKING:
    from fairseq_mem_serve import TokenScore, Translator

CHUNK = 1000  # lines scored at a time
ALL = "all"  # the last line of the table
MOST_CANDIDATES = 10_000
ITEM = '{"source": "...", "candidates": ["right", "wrong", ...], "category": "...", "context": []}'


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "score",
        help="tell how probable given translations are",
        description="Scores given translations of raw text, one a line; line N of the output "
        "belongs to line N of the files. A score is the log-probability (natural logarithm) of a "
        "translation's tokens and its end mark, given the source.",
        epilog="The exit status is 0 if every line was scored, "
        f"{NOT_ALL} if some were not (too long): each of these is named on standard error and "
        'leaves an empty line. With --json every line gives one object: "line" (from 1), '
        '"score", and "tokens", each with "token" and "log_prob"; or "error", or "document_end", '
        f"in place of these two. With --contrastive every line of FILE is one object, {ITEM}: the "
        "first candidate is the right one; category and context may be absent. With --documents "
        "the context's sentences stand in front of the source, in its document; without, they are "
        "not read. The output is a table of how often it has "
        'the highest score; with --json a line for each item instead, "line", "category", '
        '"best" (which candidate, from 0), "right" and "scores", and the table goes to standard '
        "error.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder made by fairseq-mem export, or a checkpoint (.pt)"
    )
    parser.add_argument("--source", metavar="FILE", type=Path, help="raw text")
    parser.add_argument(
        "--target", metavar="FILE", type=Path, help="raw translations, as many lines"
    )
    parser.add_argument(
        "--contrastive", metavar="FILE", type=Path, help="a test set, in place of these two files"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="where to write (default: standard output)"
    )
    parser.add_argument(
        "--documents",
        action="store_true",
        help="an empty line, in both files, ends a document (and stays empty); memory is handed on "
        "within it, for models of --task document_translation",
    )
    parser.add_argument("--json", action="store_true", help="write JSON lines, see below")
    parser.add_argument(
        "--length-penalty",
        type=finite,
        default=0.0,
        metavar="P",
        help="divide each score by the number of tokens, end mark included, to the power of P: "
        "0 (default) is the log-probability itself, 1 that of a token on average",
    )
    add_data_options(parser)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of the CPU (default: all cores)"
    )
    parser.add_argument(
        "--batch-tokens",
        type=positive,
        default=4000,
        metavar="N",
        help="tokens a batch, padding counted (default 4000)",
    )
    return parser


class Pair(NamedTuple):
    """A source and a translation of it.

    Attributes:
        source: the text.
        target: its translation.
        context: the sentences in front of it, if it is not behind the pair before.
    """

    source: str
    target: str
    context: tuple[str, ...] | None = None


class Item(NamedTuple):
    """A source and its candidates, the first of which is right."""

    source: str
    candidates: list[str]
    category: str
    context: tuple[str, ...]


class Scored(NamedTuple):
    """What became of a pair: its tokens' scores, or what is wrong with it.

    An empty line between documents has neither.
    """

    tokens: "list[TokenScore]"
    error: str | None

    def score(self, length_penalty: float) -> float:
        """The log-probability, divided by a power of the length."""
        total = math.fsum(token.log_prob for token in self.tokens)
        return total / len(self.tokens) ** length_penalty


def main(args: argparse.Namespace) -> int:
    """Score; return the exit status."""
    if (args.contrastive is None) != (args.source is not None and args.target is not None) or (
        args.contrastive is not None and (args.source or args.target)
    ):
        raise UserError("give --source and --target, or --contrastive alone")
    if abs(args.length_penalty) > 10:
        raise UserError(f"--length-penalty {args.length_penalty:g}: give -10 to 10")
    pairs: list[Pair] = []
    items: list[Item] = []
    if args.contrastive is None:
        pairs = read_pairs(args.source, args.target)
        if args.documents:
            check_documents(args, pairs)
    else:
        items = read_items(args.contrastive)
    args.engine = "auto"
    try:
        translator = load(args, interactive=False)
        translator.split_target("")  # merges of its own, if any, are read here
    except (TextError, ValueError, FileNotFoundError) as error:  # from fairseq_mem_serve
        raise UserError(str(error)) from error
    progress = Progress(shown=True, command="score")
    try:
        with written(args.output) as output:
            if args.contrastive is None:
                return _write_scores(args, translator, pairs, output, progress)
            return _write_choices(args, translator, items, output, progress)
    finally:
        progress.close()


# ---------------------------------------------------------------- what is read


def check_documents(args: argparse.Namespace, pairs: list[Pair]) -> None:
    """Refuse a line that is empty in one of the files."""
    for number, pair in enumerate(pairs, 1):
        if is_empty(pair.source) != is_empty(pair.target):
            path, other = args.source, args.target
            if is_empty(pair.target):
                path, other = other, path
            raise UserError(
                f"{path}, line {number:,} is empty and that of {other} is not; with --documents an "
                "empty line ends a document, in both"
            )


def read_pairs(source: Path, target: Path) -> list[Pair]:
    """The lines of two files that belong together.

    Raises:
        UserError: they cannot be read, or are not as many.
    """
    sides = []
    for option, path in (("--source", source), ("--target", target)):
        try:
            sides.append(read_lines(path))
        except OSError as error:
            raise UserError(f"cannot read {option} {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{option} {path}: {error}") from None
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{source} has {len(sides[0]):,} lines, {target} {len(sides[1]):,}; line N of the one "
            "must be translated by line N of the other"
        )
    return [Pair(*pair) for pair in zip(*sides, strict=True)]


def read_items(path: Path) -> list[Item]:
    """The items of a contrastive test set.

    Raises:
        UserError: it cannot be read, or a line is no item.
    """
    try:
        lines = read_lines(path)
    except OSError as error:
        raise UserError(f"cannot read --contrastive {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--contrastive {path}: {error}") from None
    return [_item(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _item(path: Path, number: int, line: str) -> Item:
    def wrong(what: str) -> UserError:
        return UserError(f"--contrastive {path}, line {number}: {what}; a line is {ITEM}")

    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise wrong("no JSON") from None
    if not isinstance(given, dict):
        raise wrong("no object")
    category = given.get("category", "")
    if not isinstance(given.get("source"), str) or not isinstance(category, str):
        raise wrong("source and category must be strings")
    candidates = given.get("candidates")
    if not isinstance(candidates, list) or not all(isinstance(c, str) for c in candidates):
        raise wrong("candidates must be a list of strings")
    if not 2 <= len(candidates) <= MOST_CANDIDATES:
        raise wrong(f"{len(candidates)} candidates, where 2 to {MOST_CANDIDATES:,} may be")
    context = given.get("context", [])
    if not isinstance(context, list) or not all(isinstance(c, str) for c in context):
        raise wrong("context must be a list of strings")
    return Item(given["source"], candidates, category, tuple(context))


# ---------------------------------------------------------------- what is computed


def score_pairs(
    translator: "Translator", pairs: list[Pair], batch_tokens: int, done: Callable[[int], None]
) -> Iterator[Scored]:
    """Score pairs, in their order, some at a time.

    Raises:
        UserError: the model fails.
    """
    from fairseq_mem_serve import TooLong

    reader = getattr(translator.engine, "reader", None)  # of documents
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        sources, targets, errors = [], [], []
        for pair in chunk:
            source: list[str] = []
            target: list[str] = []
            error = None
            try:
                side = "the source"
                source = translator.split(pair.source)
                side = "the translation"
                target = translator.split_target(pair.target)
                if reader is not None and not source and not _ends_document(pair):
                    error = "the source has no words"
            except TooLong as caught:
                error = str(caught).replace("the sentence", side)
            sources.append(source)
            targets.append(target)
            errors.append(error)
        kept = [index for index, error in enumerate(errors) if error is None]
        lengths = None
        if reader is not None:
            places = _read(reader, translator, chunk, sources, errors)
            kept = [index for index in kept if errors[index] is None and sources[index]]
            reader.select([places[index] for index in kept])
            lengths = [reader.length(n) for n in range(len(kept))]
        try:
            scored = translator.score_tokens(
                [sources[i] for i in kept],
                [targets[i] for i in kept],
                batch_tokens=batch_tokens,
                lengths=lengths,
            )
        except (RuntimeError, ValueError) as error:  # of CTranslate2 and torch: no memory, ...
            raise UserError(
                f"cannot score lines {start + 1} to {start + len(chunk)}: {first_line(error)}"
            ) from error
        of_index = dict(zip(kept, scored, strict=True))
        done(len(chunk))
        for index, what in enumerate(errors):
            yield Scored(of_index.get(index, []), what)


def _ends_document(pair: Pair) -> bool:
    return pair.context is None and is_empty(pair.source)


def _read(
    reader: Any,
    translator: "Translator",
    chunk: list[Pair],
    sources: list[list[str]],
    errors: list[str | None],
) -> list[int]:
    """Read the documents of a chunk, noting what is wrong with a context.

    Returns:
        Which of the reader's lines the source of each pair is.
    """
    from fairseq_mem_serve import TooLong

    lines: list[list[str]] = []
    ends: list[bool] = []
    places = []
    read, wrong = None, None  # the source that was read last, and what is wrong with its context
    for number, pair in enumerate(chunk):
        if pair.context is None:
            lines.append(sources[number])
            ends.append(_ends_document(pair))
            places.append(len(lines) - 1)
            continue
        if (pair.context, pair.source) != read:  # once for all candidates
            read, wrong = (pair.context, pair.source), None
            context: list[list[str]] = []
            try:
                context = [translator.split(sentence) for sentence in pair.context]
            except TooLong as caught:
                wrong = str(caught).replace("the sentence", "a sentence of the context")
            lines += [*context, sources[number], []]
            ends += [*[False for _ in context], False, True]
        places.append(len(lines) - 2)
        errors[number] = errors[number] or wrong
    reader.read(lines, ends)
    return places


def _write_scores(
    args: argparse.Namespace,
    translator: "Translator",
    pairs: list[Pair],
    output: BinaryIO,
    progress: Progress,
) -> int:
    failed = 0
    results = score_pairs(translator, pairs, args.batch_tokens, progress.add)
    for number, scored in enumerate(results, 1):
        record: dict[str, Any] = {"line": number}
        text = ""
        if scored.error is not None:
            failed += 1
            progress.say(f"line {number}: {scored.error}; it is left empty")
            record["error"] = scored.error
        elif not scored.tokens:
            record["document_end"] = True
        else:
            score = scored.score(args.length_penalty)
            text = repr(score)
            record["score"] = score
            record["tokens"] = [token._asdict() for token in scored.tokens]
        _write(output, json.dumps(record, ensure_ascii=False) if args.json else text)
    return NOT_ALL if failed else 0


def _write_choices(
    args: argparse.Namespace,
    translator: "Translator",
    items: list[Item],
    output: BinaryIO,
    progress: Progress,
) -> int:
    pairs = [
        Pair(item.source, candidate, item.context if args.documents else None)
        for item in items
        for candidate in item.candidates
    ]
    results = score_pairs(translator, pairs, args.batch_tokens, progress.add)
    counts: dict[str, list[int]] = {}  # of a category: items, right ones
    failed = 0
    for number, item in enumerate(items, 1):
        scored = [next(results) for _ in item.candidates]
        record: dict[str, Any] = {"line": number, "category": item.category}
        error = next((s.error for s in scored if s.error is not None), None)
        if error is not None:
            failed += 1
            progress.say(f"item {number}: {error}; it is left out")
            record["error"] = error
        else:
            scores = [s.score(args.length_penalty) for s in scored]
            # a draw is not won
            best = max(range(len(scores)), key=lambda k: (scores[k], k))
            of_category = counts.setdefault(item.category, [0, 0])
            of_category[0] += 1
            of_category[1] += best == 0
            record |= {"best": best, "right": best == 0, "scores": scores}
        if args.json:
            _write(output, json.dumps(record, ensure_ascii=False))
    for line in table(counts):
        if args.json:
            progress.say(line)
        else:
            _write(output, line)
    return NOT_ALL if failed else 0


def table(counts: dict[str, list[int]]) -> list[str]:
    """Lines of a Markdown table: accuracy by category, and of all."""
    from ..runs.tables import markdown

    total = [sum(numbers) for numbers in zip(*counts.values(), strict=True)] or [0, 0]
    rows = [
        [name or "(none)", f"{items:,}", f"{right:,}", f"{right / items:.1%}"]
        for name, (items, right) in sorted(counts.items())
    ]
    share = f"{total[1] / total[0]:.1%}" if total[0] else ""
    rows.append([ALL, f"{total[0]:,}", f"{total[1]:,}", share])
    return list(markdown(["category", "items", "right", "accuracy"], rows, left=1))


def _write(output: BinaryIO, line: str) -> None:
    output.write(line.encode("utf-8", "backslashreplace") + b"\n")
