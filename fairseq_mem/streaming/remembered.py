"""Reading whole documents: what memory begins as before each sentence.

Memory comes from the source alone. So documents are read first, side by side, sentence after
sentence, and nothing but memory is kept; then all sentences can be scored or translated in
whatever batches, each beginning with its own memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .documents import Documents, padded

MOST_TOKENS = 12_000  # read at once, with padding; fairseq-generate's default
TEXT_COUNTS = 8  # a document of the shortest sentences counts as many tokens: no endless groups


class Remembered:
    """Memory before every sentence of a split, for one encoder.

    Args:
        fresh: m x C, what memory begins as at a document's start.
        sentences: N.
    """

    def __init__(self, fresh: Tensor, sentences: int) -> None:
        self._rows = torch.zeros(sentences, dtype=torch.long)  # 0: the fresh one
        self._kept = [fresh.cpu().unsqueeze(0)]
        self._count = 1

    def keep(self, numbers: Sequence[int], memory: Tensor) -> None:
        """Note the memory before some sentences, m x B x C."""
        self._rows[list(numbers)] = torch.arange(self._count, self._count + len(numbers))
        self._kept.append(memory.transpose(0, 1).cpu())
        self._count += len(numbers)

    def before(self, numbers: Tensor) -> Tensor:
        """What the memory of B sentences begins as: m x B x C, on the CPU."""
        if len(self._kept) > 1:
            self._kept = [torch.cat(self._kept)]
        return self._kept[0][self._rows[numbers.cpu()]].transpose(0, 1)


@torch.no_grad()
def remember(
    encoder: Any,
    source: Any,
    sizes: np.ndarray,
    documents: Documents,
    most_tokens: int = MOST_TOKENS,
    begins: Tensor | None = None,
) -> Remembered:
    """Read all documents of a split with an encoder that hands memory on.

    A sentence that is too long for the encoder hands on what it was given.

    Args:
        encoder: in evaluation mode.
        source: its sentences, with end marks.
        sizes: of them, in tokens.
        documents: where they begin.
        most_tokens: read at once, with padding.
        begins: m x C, what the first document begins with; None for the trained memory.
    """
    like = next(encoder.parameters())
    fresh = encoder.first_memory(like.new_zeros(1, 1, encoder.memory.weight.size(1)))
    remembered = Remembered(fresh[:, 0], documents.sentences)
    if begins is not None:
        remembered.keep([0], begins.unsqueeze(1))
    longest = encoder.max_positions()
    if getattr(source, "supports_prefetch", False):
        source.prefetch(range(documents.sentences))
    for group in _side_by_side(np.asarray(sizes), documents, most_tokens):
        memory = fresh.expand(-1, len(group), -1)
        if begins is not None:
            first = torch.from_numpy(group == 0).view(1, -1, 1).to(fresh.device)
            memory = torch.where(first, begins.unsqueeze(1).to(fresh), memory)
        for place in range(int(documents.lengths[group[0]]) - 1):
            group = group[documents.lengths[group] > place + 1]
            numbers = documents.starts[group] + place
            memory = memory[:, : len(group)]
            fitting = torch.from_numpy(np.flatnonzero(sizes[numbers] <= longest))
            if len(fitting):
                tokens = padded([source[n] for n in numbers[fitting.numpy()]], encoder.padding_idx)
                memory = _read_on(encoder, memory, fitting.to(like.device), tokens.to(like.device))
            remembered.keep((numbers + 1).tolist(), memory)
    return remembered


def read_in_front(encoder: Any, windows: int, before: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What memory begins as in windows of documents, when what is in front of them has been read.

    Args:
        encoder: it hands memory on.
        windows: D.
        before: steps of reading, each of which windows read, and what (B x T).

    Returns:
        m x D x C, with a gradient only where nothing is in front: there it is the trained memory.
    """
    like = encoder.memory.weight
    fresh = encoder.first_memory(like.new_zeros(1, windows, like.size(1)))
    memory = fresh.detach()
    reading = torch.zeros(windows, dtype=torch.bool, device=like.device)
    with torch.no_grad():
        for rows, tokens in before:
            memory = _read_on(encoder, memory, rows, tokens)
            reading[rows] = True
    return torch.where(reading.view(1, -1, 1), memory, fresh)


def _read_on(encoder: Any, memory: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Memory (m x D x C) when some of the documents have read a sentence more (B x T)."""
    read = memory[:, rows]
    encoded = encoder(tokens, memory={encoder: read})["encoder_out"][0]
    return memory.index_copy(1, rows, encoder.hand_on(read, encoded).to(memory))


def _side_by_side(
    sizes: np.ndarray, documents: Documents, most_tokens: int
) -> Iterator[np.ndarray]:
    """Numbers of the documents to read together, those of most sentences first."""
    group: list[int] = []
    widest = 0
    for document in np.argsort(-documents.lengths, kind="stable"):
        start, stop = documents.starts[document], documents.starts[document + 1]
        if stop - start < 2:
            break  # nothing is handed on
        width = max(TEXT_COUNTS, int(sizes[start : stop - 1].max()))
        if group and (len(group) + 1) * max(widest, width) > most_tokens:
            yield np.array(group)
            group, widest = [], 0
        group.append(int(document))
        widest = max(widest, width)
    if group:
        yield np.array(group)
