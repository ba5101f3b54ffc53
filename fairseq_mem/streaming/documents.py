"""Documents: which sentences of a binarised split belong together, and windows of them.

Beside fairseq's data stands one text file a split, ``SPLIT.documents`` (UTF-8): a line for every
sentence of the split, in its order, with the name of the sentence's document. Lines that follow
one another with the same name are a document. A split without the file is of single sentences.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset, LanguagePairDataset
from fairseq.data.data_utils import filter_paired_dataset_indices_by_size, numpy_seed
from fairseq_mem_text.files import read_bytes
from fairseq_mem_text.lines import BYTE_ORDER_MARK
from torch import Tensor

from ..errors import UserError

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 40  # of such a file: as many as there are
ENDING = ".documents"  # of the file's name, behind the split's
REMEDY = "give a line with the name of its document for every sentence"


class Documents:
    """Documents one behind the other.

    Args:
        lengths: sentences of each document, 1 or more.

    Attributes:
        starts: number of each document's first sentence, and behind them that of all sentences.
        first: of every sentence, the number of its document's first.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray) -> None:
        lengths = np.asarray(lengths, dtype=np.int64)
        self.starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        self.first = np.repeat(self.starts[:-1], lengths)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sentences(self) -> int:
        """Of all documents."""
        return int(self.starts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """In sentences."""
        return np.diff(self.starts)

    def windows(self, size: int, offsets: np.ndarray) -> np.ndarray:
        """Cut every document into windows of ``size`` sentences.

        Args:
            size: K.
            offsets: of each document, how many sentences its first window lacks (below K).

        Returns:
            W x 2: the number of each window's first sentence, and that behind its last.
        """
        shifted = self.starts[:-1] - offsets
        counts = -(-(self.starts[1:] - shifted) // size)
        of_window = np.repeat(np.arange(len(self)), counts)
        number = np.arange(len(of_window)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = shifted[of_window] + number * size
        return np.stack(
            [
                np.maximum(starts, self.starts[of_window]),
                np.minimum(starts + size, self.starts[of_window + 1]),
            ],
            axis=1,
        )


def read_documents(path: Path, sentences: int) -> Documents:
    """Read a documents file; without the file, every sentence is a document.

    Args:
        path: ``SPLIT.documents``.
        sentences: how many the split has.

    Raises:
        UserError: it does not fit the split; says where.
    """
    try:
        text = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        return Documents(np.ones(sentences, dtype=np.int64))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}; {REMEDY}") from None
    text = text.removeprefix(BYTE_ORDER_MARK).removesuffix(b"\n")
    names = [line.strip() for line in text.split(b"\n")] if text else []
    if len(names) != sentences:
        raise UserError(
            f"{path} has {len(names):,} lines, and the split has {sentences:,} sentences; {REMEDY}"
        )
    lengths: list[int] = []
    ended: dict[bytes, int] = {}  # the line behind each document's last
    for number, name in enumerate(names, 1):
        if not name:
            raise UserError(f"{path}, line {number:,} is empty; {REMEDY}")
        if number > 1 and name == names[number - 2]:
            lengths[-1] += 1
        elif name in ended:
            shown = name.decode("utf-8", "replace")
            raise UserError(
                f"{path}, line {number:,} takes up document {shown!r} again, which ended at line "
                f"{ended[name]:,}; the sentences of a document follow one another"
            )
        else:
            lengths.append(1)
        ended[name] = number
    return Documents(lengths)


class WithContext(BaseWrapperDataset):
    """Source sentences, each behind the sentences in front of it in its document.

    ``a </s> b </s> c </s>`` is the sentence c behind a and b: the end mark separates them, so that
    every dictionary and every trained model has the separator.

    Args:
        sentences: the source, with end marks.
        sizes: its lengths.
        documents: where they begin.
        count: how many sentences are put in front.
        longest: in tokens; sentences in front are left out, the first ones first, until it fits.
    """

    def __init__(
        self, sentences: Any, sizes: np.ndarray, documents: Documents, count: int, longest: int
    ) -> None:
        super().__init__(sentences)
        sizes = np.asarray(sizes, dtype=np.int64)
        self._sizes = sizes.copy()
        self.begins = np.arange(len(sizes))  # the first sentence of each one's context
        going_on = np.ones(len(sizes), dtype=bool)
        for back in range(1, count + 1):
            number = np.arange(len(sizes)) - back
            going_on &= number >= documents.first
            going_on &= self._sizes + sizes[np.maximum(number, 0)] <= longest
            self._sizes += np.where(going_on, sizes[np.maximum(number, 0)], 0)
            self.begins -= going_on

    def __getitem__(self, index: int) -> Tensor:
        return torch.cat([self.dataset[n] for n in range(self.begins[index], index + 1)])

    @property
    def sizes(self) -> np.ndarray:
        """In tokens."""
        return self._sizes

    @property
    def supports_prefetch(self) -> bool:
        """fairseq's hook."""
        return bool(getattr(self.dataset, "supports_prefetch", False))

    def prefetch(self, indices: Sequence[int]) -> None:
        """fairseq's hook; a sentence needs those in front of it."""
        self.dataset.prefetch(
            sorted({n for index in indices for n in range(self.begins[index], index + 1)})
        )


class DocumentPairs(BaseWrapperDataset):
    """Pairs of sentences, whose batches say which split they are of.

    Args:
        pairs: fairseq's.
        documents: where they begin.
        split: its name.
    """

    def __init__(self, pairs: LanguagePairDataset, documents: Documents, split: str) -> None:
        super().__init__(pairs)
        self.documents, self.split = documents, split

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """fairseq's batch."""
        batch: dict[str, Any] = self.dataset.collater(samples)
        return {**batch, "split": self.split} if batch else batch

    @property
    def src(self) -> Any:
        """The source, for ``--replace-unk``."""
        return self.dataset.src

    @property
    def tgt(self) -> Any:
        """The target, for ``--replace-unk``."""
        return self.dataset.tgt


class Windows(FairseqDataset):
    """Windows of K consecutive sentences of a document, for training: an item is a window.

    Every epoch cuts the documents at other places, which depend on the seed and the epoch alone, so
    that a training that is resumed sees what it would have seen.

    Args:
        pairs: of sentences.
        size: K.
        seed: of the training.
        hand_on: whether the model hands memory on: its batches then say how.
        before: how many sentences in front of each window come with it, read without gradient.
        longest: source tokens that the model takes; a longer sentence in front is passed over.
    """

    can_reuse_epoch_itr_across_epochs = False

    def __init__(
        self, pairs: DocumentPairs, size: int, seed: int, hand_on: bool, before: int = 0,
        longest: float = math.inf,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pairs, self.size_of_all, self.seed, self.hand_on = pairs, size, seed, hand_on
        self.longest = longest
        self.before = before if hand_on else 0
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Hook of fairseq's: cut the documents for an epoch."""
        super().set_epoch(epoch)
        documents, pairs = self.pairs.documents, self.pairs.dataset
        with numpy_seed(self.seed, epoch):
            offsets = np.random.randint(0, self.size_of_all, len(documents))
        # a document that fits into one window is never cut
        offsets[documents.lengths <= self.size_of_all] = 0
        self.spans = documents.windows(self.size_of_all, offsets)
        longest = [
            np.maximum.reduceat(np.asarray(sizes), self.spans[:, 0])
            for sizes in (pairs.src_sizes, pairs.tgt_sizes)
        ]
        self.source_sizes, self.target_sizes = longest  # of the longest sentence

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        start, stop = self.spans[index]
        return [self.pairs[number] for number in range(start, stop)]

    def collater(self, windows: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """fairseq's batch of all sentences: first the first of every window, and so on."""
        if not windows:
            return {}
        windows = sorted(windows, key=len, reverse=True)  # stable
        steps = [sum(len(w) > place for w in windows) for place in range(len(windows[0]))]
        rows = [w[place] for place, count in enumerate(steps) for w in windows[:count]]
        batch: dict[str, Any] = self.pairs.collater(rows)
        # fairseq sorts rows by their length
        place_of = {number: place for place, number in enumerate(batch["id"].tolist())}
        order = torch.tensor([place_of[row["id"]] for row in rows])
        batch = _reordered(batch, order)
        if self.hand_on:
            batch["net_input"]["steps"] = steps
        if self.before > 0:
            batch["before"] = self._in_front([window[0]["id"] for window in windows])
        return batch

    def _in_front(self, starts: list[int]) -> list[tuple[Tensor, Tensor]]:
        """The sentences in front of some windows, the furthest first: which windows have one, and
        their tokens (B x T).
        """  # fmt: skip
        dataset = self.pairs.dataset
        source, sizes, padding = dataset.src, dataset.src_sizes, dataset.src_dict.pad()
        found = []
        for back in range(self.before, 0, -1):
            rows_with_one = [
                row for row, start in enumerate(starts)
                if start - back >= self.pairs.documents.first[start]
                and sizes[start - back] <= self.longest
            ]  # fmt: skip
            if rows_with_one:
                rows = [source[starts[row] - back] for row in rows_with_one]
                found.append((torch.tensor(rows_with_one), padded(rows, padding)))
        return found

    def num_tokens(self, index: int) -> int:
        """With padding, as if the window were whole: a batch never has more than was asked for."""
        return int(self.num_tokens_vec(np.array([index]))[0])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """See :meth:`num_tokens`."""
        longest = np.maximum(self.source_sizes[indices], self.target_sizes[indices])
        tokens: np.ndarray = longest * self.size_of_all
        return tokens

    def size(self, index: int) -> tuple[int, int]:
        """Of its longest source and target sentence."""
        return int(self.source_sizes[index]), int(self.target_sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Shuffled, then sorted by length, as fairseq's."""
        indices = np.random.permutation(len(self))
        indices = indices[np.argsort(self.target_sizes[indices], kind="mergesort")]
        by_source: np.ndarray = np.argsort(self.source_sizes[indices], kind="mergesort")
        return indices[by_source]

    def filter_indices_by_size(
        self, indices: np.ndarray, max_sizes: Any
    ) -> tuple[np.ndarray, list[int]]:
        """Leave out windows with a sentence that is too long."""
        found: tuple[np.ndarray, list[int]] = filter_paired_dataset_indices_by_size(
            self.source_sizes, self.target_sizes, indices, max_sizes
        )
        return found

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Any:
        """fairseq's batches; a window that does not fit into one by itself is left out."""
        if max_tokens is not None:
            fitting = indices[self.num_tokens_vec(indices) <= max_tokens]
            if len(fitting) == 0:
                raise UserError(
                    f"--max-tokens {max_tokens} has no room for a window of {self.size_of_all} "
                    "sentences; raise it"
                )
            if len(fitting) < len(indices):
                logger.warning(
                    f"{len(indices) - len(fitting):,} windows of {self.size_of_all} sentences have "
                    f"more than --max-tokens {max_tokens}, padding counted, and are left out"
                )
            indices = fitting
        return super().batch_by_size(
            indices, max_tokens, max_sentences, required_batch_size_multiple
        )

    @property
    def supports_prefetch(self) -> bool:
        """fairseq's hook."""
        return bool(self.pairs.supports_prefetch)

    def prefetch(self, indices: Sequence[int]) -> None:
        """fairseq's hook; a window needs what is read in front of it."""
        needed: set[int] = set()
        for start, stop in self.spans[list(indices)]:
            first = self.pairs.documents.first[start]
            needed.update(range(max(first, start - self.before), stop))
        self.pairs.prefetch(sorted(needed))


def padded(sentences: list[Tensor], padding: int) -> Tensor:
    """B x T, padded on the right."""
    rows = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=padding)
    return rows.long()


def _reordered(batch: dict[str, Any], order: Tensor) -> dict[str, Any]:
    """The batch with its rows in another order."""
    rows = len(order)
    inputs = {
        name: value[order] if torch.is_tensor(value) and value.size(0) == rows else value
        for name, value in batch["net_input"].items()
    }
    return {
        **batch, "id": batch["id"][order], "target": batch["target"][order], "net_input": inputs
    }  # fmt: skip
