"""Raw parallel text to tokenised text, on all cores; training pairs are dropped by rules.

The output equals, byte for byte, that of `sacremoses normalize tokenize -a`, of text that is
composed (``nfc``).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .errors import TextError
from .files import written
from .lines import is_empty, opened, text_chunks
from .progress import Progress
from .words import word_splitter
from .workers import in_order, worker_pool

TOKENIZERS: list[Callable[[str], str]] = []  # of the source and of the target, in each worker


def prepare_tokenizers(
    languages: Sequence[str], normalize: bool, remove_nonprinting: bool, nfc: bool
) -> None:
    """What each worker does first."""
    TOKENIZERS[:] = [
        word_splitter(
            language,
            normalize=normalize,
            remove_nonprinting=remove_nonprinting,
            nfc=nfc,
            remember=True,
        )
        for language in languages
    ]


class Limits(NamedTuple):
    """Which pairs of a training text are kept; lengths are in words, that is tokens."""

    min_words: int = 1  # of the shorter side, at least
    max_words: int = 250  # of the longer side, at most
    max_ratio: float = 1.5  # of the longer side's length to the shorter one's, at most
    dedup: bool = False  # drop pairs that are equal to an earlier one


def drop_rule(source: str, target: str, limits: Limits) -> str | None:
    """Which rule drops this pair of tokenised lines; None keeps it."""
    lengths = (len(source.split()), len(target.split()))
    if min(lengths) < limits.min_words:
        return f"shorter than {limits.min_words}"
    if max(lengths) > limits.max_words:
        return f"longer than {limits.max_words}"
    if max(lengths) > limits.max_ratio * min(lengths):
        return f"of a length ratio above {limits.max_ratio:g}"
    return None


PAIR_HASH_BYTES = 8  # of 4.5 million pairs, two are taken for one with a chance of 5e-7


class Tokenized(NamedTuple):
    """What a worker makes of a chunk: the kept lines, one hash for each pair, the dropped pairs.

    Where empty lines end documents, also how many of them stood in front of each kept pair, and
    ``ENDED`` among the dropped.
    """

    sources: list[bytes]
    targets: list[bytes]
    hashes: list[bytes]
    documents: list[int]
    dropped: Counter[str]


ENDED = "empty lines between documents"


def tokenize_chunk(chunk: tuple[list[bytes], list[bytes], Limits | None, bool]) -> Tokenized:
    sources, targets, limits, documents = chunk
    made = Tokenized([], [], [], [], Counter())
    for pair in zip(sources, targets):
        if documents and all(map(is_empty, pair)):
            made.dropped[ENDED] += 1
            continue
        source, target = (
            tokenize_line(line.decode("utf-8")) for tokenize_line, line in zip(TOKENIZERS, pair)
        )
        rule = drop_rule(source, target, limits) if limits else None
        if rule:
            made.dropped[rule] += 1
            continue
        made.sources.append(f"{source}\n".encode())
        made.targets.append(f"{target}\n".encode())
        made.documents.append(made.dropped[ENDED])
        if limits and limits.dedup:
            both = made.sources[-1] + made.targets[-1]
            made.hashes.append(hashlib.blake2b(both, digest_size=PAIR_HASH_BYTES).digest())
    return made


def without_repeated(made: Tokenized, seen: set[bytes]) -> Tokenized:
    """The pairs that are not in `seen`, to which they are added."""
    kept = Tokenized([], [], [], [], made.dropped)
    for source, target, document, digest in zip(
        made.sources, made.targets, made.documents, made.hashes
    ):
        if digest in seen:
            kept.dropped["seen before"] += 1
        else:
            seen.add(digest)
            kept.sources.append(source)
            kept.targets.append(target)
            kept.documents.append(document)
    return kept


def tokenize(
    sources_path: str,
    targets_path: str,
    output: str,
    languages: Sequence[str],
    *,
    normalize: bool = True,
    remove_nonprinting: bool = False,
    nfc: bool = False,
    limits: Limits | None = None,
    documents: bool = False,
    workers: int = 1,
) -> None:
    """Write OUTPUT.LANGUAGE for both languages, and what was kept and dropped as OUTPUT.counts.

    With ``documents`` also OUTPUT.documents, the number of every kept pair's document.

    Args:
        sources_path: raw text, one sentence a line.
        targets_path: its translation.
        output: beginning of the new files' names.
        languages: of the source and of the target.
        normalize: normalise punctuation before.
        remove_nonprinting: and remove control characters.
        nfc: and compose characters first.
        limits: what to drop; None keeps every pair.
        documents: a line that is empty in both languages ends a document, and is no pair.
        workers: processes.

    Raises:
        TextError: a file cannot be read or written, or no pair is left.
    """
    outputs = [f"{output}.{language}" for language in languages]
    outputs += [f"{output}.documents"] if documents else []
    progress, dropped = Progress(os.path.basename(output)), Counter[str]()
    seen: set[bytes] = set()
    with (
        opened(sources_path) as source,
        opened(targets_path) as target,
        written(*outputs, output + ".counts") as (source_out, target_out, *names_out, counts_out),
        worker_pool(
            workers, prepare_tokenizers, languages, normalize, remove_nonprinting, nfc
        ) as pool,
    ):
        chunks = (
            (sources, targets, limits, documents)
            for sources, targets in zip(text_chunks(source), text_chunks(target))
        )
        kept = 0
        for made in in_order(pool, tokenize_chunk, chunks, workers):
            read = len(made.sources) + made.dropped.total()
            ended = dropped[ENDED] + 1
            if made.hashes:
                made = without_repeated(made, seen)
            source_out.writelines(made.sources)
            target_out.writelines(made.targets)
            for names in names_out:
                names.writelines(b"%d\n" % (ended + number) for number in made.documents)
            dropped += made.dropped
            kept += len(made.sources)
            progress.add(read)
        if kept == 0:
            raise TextError(
                f"{sources_path}: no pair is left of {progress.lines:,} "
                f"({rule_counts(dropped)}); check that the lines match, or widen the limits"
            )
        between = dropped.pop(ENDED, 0)
        report = f"{progress.lines - between:,} pairs read, {kept:,} kept"
        if limits:
            report += f"; dropped: {rule_counts(dropped)}"
        counts_out.write(f"{report}\n".encode())
    progress.report()


def rule_counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {rule}" for rule, count in sorted(dropped.items())) or "none"
