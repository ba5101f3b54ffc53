"""A text as contiguous streams, one a batch row, cut into segments that follow one another.

The text's N words are cut into R rows of equal length (to within one word). Batch i holds the i-th
piece of every row; who reads batch after batch reads every row on and on. Each word of the text is
predicted once, from the word before it and on (the first from the end-of-sentence symbol), so that
the loss is over the same words as with fairseq's own blocks.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from ..errors import UserError


class TokenStream(FairseqDataset):
    """All sentences of a binarised split, end to end; read from the disk as they are needed."""

    def __init__(self, split: str, sentences: Any, first: int) -> None:
        super().__init__()
        self.split, self.sentences, self.first = split, sentences, first
        self.ends = np.cumsum(np.asarray(sentences.sizes, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> Tensor:
        """Words ``start`` to ``stop`` (not included); -1 is the symbol before the first word."""
        parts = [torch.tensor([self.first])] if start < 0 <= stop else []
        start = max(start, 0)
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            end = int(self.ends[number])
            sentence = self.sentences[number]
            begin = end - len(sentence)
            parts.append(sentence[start - begin : stop - begin].long())
            start, number = end, number + 1
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


class Rows(NamedTuple):
    """How a text is shared out: each of ``workers`` reads ``batch`` rows of its own."""

    batch: int
    workers: int = 1
    worker: int = 0

    @property
    def all(self) -> int:
        """How many rows the text is cut into, those of all workers."""
        return self.batch * self.workers


def batches_in(total: int, rows: int, piece: int) -> int:
    """How many batches of ``piece`` words a row it takes to read ``total`` words in ``rows``."""
    return -(-total // (rows * piece))


class StreamBatches(torch.utils.data.Dataset):
    """One worker's batches, in order.

    Args:
        stream: the text.
        rows: which rows of it.
        piece: words of every row in a batch: a segment, or several.
        segment: words a segment.
        pad: fills the rows that are one word shorter than others, at their end.
    """

    def __init__(self, stream: TokenStream, rows: Rows, piece: int, segment: int, pad: int) -> None:
        self.stream, self.rows, self.piece = stream, rows, piece
        self.segment, self.pad = segment, pad
        total, first = len(stream), rows.worker * rows.batch
        bounds = [row * total // rows.all for row in range(first, first + rows.batch + 1)]
        self.spans = list(pairwise(bounds))
        self.longest = -(-total // rows.all)  # of all workers: they all have as many batches

    def __len__(self) -> int:
        return batches_in(len(self.stream), self.rows.all, self.piece)

    def __getitem__(self, number: int) -> dict[str, Any]:
        position = number * self.piece
        length = min(self.piece, self.longest - position)
        batch = len(self.spans)
        words = torch.full((batch, length + 1), self.pad)  # the word before, then the piece
        for row, (start, stop) in enumerate(self.spans):
            start += position
            if start < stop:
                part = self.stream.read(start - 1, min(start + length, stop))
                words[row, : len(part)] = part
        target = words[:, 1:].contiguous()
        return {
            "id": torch.arange(batch) + self.rows.worker * batch,
            "net_input": {
                "src_tokens": words[:, :-1].masked_fill(target.eq(self.pad), self.pad),
                "segment": self.segment,
                "position": position,
            },
            "target": target,
            "nsentences": batch,
            "ntokens": int(target.ne(self.pad).sum()),
        }

    @staticmethod
    def collater(batches: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch is one item already."""
        return batches[0]


def check_length(stream: TokenStream, rows: Rows, segment: int, cache: int) -> None:
    """Refuse to cut a text into rows that are too short to be what was asked for.

    A single row is as long as it can be; many rows of too little text would be read without the
    context that the model is trained or measured for.

    Raises:
        UserError: the text is empty, or a row would be shorter than a segment or than the cache.
    """
    total = len(stream)
    if total == 0:
        raise UserError(f"the split {stream.split!r} is empty; binarise some text for it")
    if rows.all == 1:
        return
    for name, option, needed in (
        ("segment", "--tokens-per-sample", segment),
        ("cache", "cache_length", cache),
    ):
        if total // rows.all < needed:
            raise UserError(
                f"the split {stream.split!r} has {total} tokens, {total // rows.all} for each of "
                f"{rows.all} rows ({rows.batch} on each of {rows.workers} workers), fewer than the "
                f"{name} of {needed}; give a smaller --batch-size "
                f"(--batch-size-valid in validation) or {option}"
            )
