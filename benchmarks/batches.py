"""The sentences of a round: as many, as long and in the same order for everybody."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from fairseq.data import Dictionary, LanguagePairDataset

REAL = "real"

# Source and target lengths of 100 German-English verses, one from every percentile of the
# training text of examples/quickstart by source length, in tokens of a joint BPE of 8,000
# merges. Mean 33 and 33, eight of ten sources between 18 and 52.
_REAL = """
    9:11 12:14 14:16 15:16 15:20 16:17 17:15 17:21 18:15 18:20 19:16 19:19 19:20 20:17 20:19 20:23
    20:25 21:19 21:22 21:26 22:19 22:23 22:24 23:18 23:22 23:24 24:20 24:22 24:24 25:21 25:22 25:25
    25:27 26:23 26:25 26:29 27:23 27:26 27:30 27:32 28:27 28:30 29:26 29:29 29:32 30:27 30:28 30:31
    31:23 31:31 31:32 32:29 32:32 33:27 33:31 33:33 34:29 34:32 34:49 35:31 35:36 35:41 36:35 36:38
    37:34 37:37 38:33 38:37 39:32 39:37 39:47 40:39 40:42 41:40 41:42 42:40 42:43 43:44 44:38 44:41
    45:40 45:49 46:45 47:41 47:48 48:43 49:48 50:49 50:52 51:53 52:52 54:49 55:52 56:53 58:55 59:70
    63:58 65:66 71:66 72:71
"""
REAL_COPIES = 288
REAL_LENGTHS = [tuple(map(int, pair.split(":"))) for pair in _REAL.split()]


def dictionary(words: int) -> Dictionary:
    """A joint dictionary of ``words`` entries, fairseq's four special ones among them."""
    made = Dictionary()
    for number in range(words - len(made)):
        made.add_symbol(f"w{number}")
    return made


class Samples(Protocol):
    """Batches that a contestant trains on."""

    def dictionary(self) -> Dictionary:
        """The dictionary, of the target if there are two languages."""

    def samples(self) -> list[dict[str, Any]]:
        """The batches, as fairseq's loader makes them."""


@dataclass(frozen=True)
class Batches:
    """Parallel sentences of random words.

    Args:
        length: ``"real"``, or the length of every source and target.
        tokens: as ``--max-tokens``.
        count: how many batches; of real text they are spread evenly from short to long.
        words: size of the dictionary.
    """

    length: str | int
    tokens: int
    count: int
    words: int

    def dictionary(self) -> Dictionary:
        """The dictionary of both sides."""
        return dictionary(self.words)

    def samples(self) -> list[dict[str, Any]]:
        """The batches, as fairseq's loader makes them."""
        if self.length == REAL:
            # As many sentences as the text has. With few, those of one batch would be of many
            # lengths: up to half of it padding, where batches of the text have 1 to 5 %.
            pairs = REAL_LENGTHS * REAL_COPIES
        else:
            length = int(self.length)
            pairs = [(length, length)] * (self.count * max(1, self.tokens // length))
        words = self.dictionary()
        numbers = torch.Generator().manual_seed(1)

        def sentence(length: int) -> torch.Tensor:
            tokens = torch.randint(words.nspecial, len(words), (length,), generator=numbers)
            tokens[-1] = words.eos()
            return tokens

        sources = [sentence(source) for source, _ in pairs]
        targets = [sentence(target) for _, target in pairs]
        data = LanguagePairDataset(
            sources, [len(s) for s in sources], words,
            targets, [len(t) for t in targets], words, shuffle=False,
        )  # fmt: skip
        return collate(data, self.tokens, self.count)


def collate(data: LanguagePairDataset, tokens: int, count: int) -> list[dict[str, Any]]:
    """Make ``count`` batches of at most ``tokens``, spread evenly over all there are."""
    batches = data.batch_by_size(
        data.ordered_indices(), max_tokens=tokens, required_batch_size_multiple=1
    )
    count = min(count, len(batches))
    chosen = [batches[int((number + 0.5) * len(batches) / count)] for number in range(count)]
    return [data.collater([data[index] for index in batch]) for batch in chosen]


def evenly(data: LanguagePairDataset, tokens: int, sentences: int) -> list[dict[str, Any]]:
    """Whole batches, evenly over the lengths, until there are enough sentences."""
    batches = data.batch_by_size(
        data.ordered_indices(), max_tokens=tokens, required_batch_size_multiple=1
    )
    need = max(1, round(len(batches) * min(1.0, sentences / len(data))))
    return collate(data, tokens, need)


@dataclass(frozen=True)
class BinarisedBatches:
    """Batches of real text: the training part of what fairseq-preprocess (or ours) wrote."""

    data: str
    tokens: int
    count: int

    def dictionary(self) -> Dictionary:
        """The target's dictionary; the two sides share it."""
        return self._task().target_dictionary

    def samples(self) -> list[dict[str, Any]]:
        """The batches, as fairseq's loader makes them."""
        task = self._task()
        task.load_dataset("train")
        return collate(task.dataset("train"), self.tokens, self.count)

    def _task(self) -> Any:
        from fairseq.tasks.translation import TranslationTask

        from .models import parse

        return TranslationTask.setup_task(parse("--arch transformer", self.data).task)
