"""BPE of tokenised text, on all cores: learning the merges, and splitting words by them.

The output equals, byte for byte, that of `subword-nmt learn-joint-bpe-and-vocab` and `apply-bpe`.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import bpe
from .checks import refuse_long_line
from .errors import TextError
from .files import written
from .linear import segment_word
from .lines import line_chunks, opened
from .progress import Progress, say
from .workers import in_order, prepare_nothing, worker_pool

COUNT_LINES = 20_000  # the more lines are counted at once, the fewer words are passed on
REMEMBERED_WORDS = 200_000  # in one process: some 50 MB

# ---------------------------------------------------------------- learning


def count_words(lines: list[bytes]) -> tuple[int, Counter[str]]:
    words = Counter(b"".join(lines).decode("utf-8").replace("\n", " ").split(" "))
    del words[""]
    return len(lines), words


def learned_merges(words: Counter[str], wanted: int) -> Iterator[str]:
    if bpe.learnable(words):
        for left, right in bpe.Learner(words).merges(wanted):
            yield f"{left} {right}"
        return
    from subword_nmt.learn_bpe import learn_bpe as learn_merges

    os.environ.setdefault("TQDM_DISABLE", "1")
    codes = io.StringIO()
    learn_merges([f"{word} {n}" for word, n in words.items()], codes, wanted, is_dict=True)
    yield from codes.getvalue().split("\n")[1:-1]


def learn_bpe(paths: Sequence[str], output: str, merges: int, workers: int = 1) -> None:
    """Learn merges from tokenised text.

    Args:
        paths: the text.
        output: the new file of merges, as subword-nmt writes it.
        merges: how many; fewer are learned if no pair of symbols is left that is there twice.
        workers: processes that count words.

    Raises:
        TextError: a file cannot be read or written.
    """
    words: Counter[str] = Counter()
    progress = Progress("counting words")
    with worker_pool(workers, prepare_nothing) as pool:
        for path in paths:
            with opened(path) as file:
                chunks = line_chunks(file, COUNT_LINES)
                for lines, counted in in_order(pool, count_words, chunks, workers):
                    words.update(counted)
                    progress.add(lines)
    progress.report()
    progress = Progress("learning BPE", "merges")
    learned = 0
    with written(output) as (file,):
        file.write(b"#version: 0.2\n")
        for merge in learned_merges(words, merges):
            file.write(f"{merge}\n".encode())
            learned += 1
            progress.add(1)
        if learned == 0:  # which subword-nmt cannot read
            raise TextError(
                "BPE can't be learned: no two symbols stand beside each other twice in the "
                "training text; give more text"
            )
    progress.report()
    if learned < merges:
        say("no pair of symbols is left that is there twice: BPE ends here")
    say(f"BPE: {learned:,} merges learned from {len(words):,} different words")


# ---------------------------------------------------------------- splitting

SEGMENT_LINE: list[Callable[[str], str]] = []  # one, in each worker


class Segmented(dict[str, str]):
    """Words and what BPE makes of them."""

    def __init__(self, bpe: Any) -> None:
        super().__init__()
        self.bpe = bpe

    def __missing__(self, word: str) -> str:
        if len(self) >= REMEMBERED_WORDS:
            self.clear()
        self[word] = segmented = " ".join(segment_word(self.bpe, word))
        self.bpe.cache.clear()  # the library's own memory of words has no bound
        return segmented

    def segment_line(self, line: str) -> str:
        words = line.removesuffix("\n").split(" ")
        if "" in words or "\r" in line:
            kept: str = self.bpe.process_line(line)  # it keeps the spaces at both ends
            self.bpe.cache.clear()
            return kept
        end = "\n" if line.endswith("\n") else ""
        return " ".join([self[word] for word in words]) + end


def prepare_bpe(codes_path: str) -> None:
    from subword_nmt.apply_bpe import BPE

    with open(codes_path, encoding="utf-8-sig") as codes:
        SEGMENT_LINE[:] = [Segmented(BPE(codes)).segment_line]


def segment_chunk(lines: list[bytes]) -> list[bytes]:
    (segment_line,) = SEGMENT_LINE
    return [segment_line(line.decode("utf-8")).encode("utf-8") for line in lines]


def apply_bpe(
    path: str, output: str, codes: str, max_tokens: int | None = None, workers: int = 1
) -> None:
    """Split the words of a tokenised text.

    Args:
        path: the text.
        output: the new file.
        codes: the merges.
        max_tokens: refuse a line that has more.
        workers: processes.

    Raises:
        TextError: a file cannot be read or written, or a line is too long.
    """
    progress = Progress(os.path.basename(output))
    with (
        opened(path) as file,
        written(output) as (out,),
        worker_pool(workers, prepare_bpe, codes) as pool,
    ):
        for lines in in_order(pool, segment_chunk, line_chunks(file), workers):
            if max_tokens is not None:
                for number, line in enumerate(lines, progress.lines + 1):
                    refuse_long_line(path, number, len(line.split()), "BPE tokens", max_tokens)
            out.write(b"".join(lines))
            progress.add(len(lines))
    progress.report()
