"""Documents that come line by line, or in chunks: what each sentence begins with.

For ``translate`` and ``score`` with ``--documents``. A chunk is read before it is translated, so
that all of its sentences can be translated together; the last document of a chunk may go on in the
next one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..streaming.documents import Documents, WithContext
from ..streaming.remembered import Remembered, remember


class DocumentReader:
    """Reads chunks of lines for models of documents, one after the other.

    Args:
        task: of the models.
        models: on their device, in evaluation mode.
        longest: source tokens that they take, with the end mark.

    Raises:
        UserError: they hand nothing on.
    """

    def __init__(self, task: Any, models: Sequence[Any], longest: int) -> None:
        self.words, self.longest = task.source_dictionary, longest
        self.context = context_of(task)
        self.encoders = [model.encoder for model in models if hands_on(model)]
        if not self.encoders and self.context == 0:
            raise UserError(
                "--documents is for models of --task document_translation that hand memory on or "
                "were trained with --context-sentences, and this one translates sentence by "
                "sentence; leave it out"
            )
        self._number: dict[int, int] = {}  # of a line of the chunk, its sentence
        self._source: list[Tensor] = []
        self._remembered: list[Remembered] = []
        # what the document that goes on begins the next chunk with: of each encoder m x C, and the
        # sentences that are context of those to come
        self._begins: list[Tensor | None] = [None for _ in self.encoders]
        self._last: list[Tensor] = []

    def read(self, lines: Sequence[list[str]], ends: Sequence[bool]) -> None:
        """Read the next lines.

        Args:
            lines: their tokens; one without any is no sentence.
            ends: whether a line is an empty one, which ends a document.
        """
        self._number.clear()
        skip = len(self._last)
        parts = [list(self._last)]  # the documents' sentences
        for index, (tokens, end) in enumerate(zip(lines, ends, strict=True)):
            if end:
                parts.append([])
            elif tokens:
                self._number[index] = sum(map(len, parts)) - skip
                parts[-1].append(self._as_numbers(tokens))
        self._last = parts[-1][-self.context :] if self.context > 0 else []
        # one more, which is never read: what it begins with is what the next chunk begins with
        parts[-1].append(torch.tensor([self.words.eos()]))
        sentences = [sentence for part in parts for sentence in part]
        lengths = [len(part) for part in parts]
        sizes = np.array([len(sentence) for sentence in sentences])
        documents = Documents([length for length in lengths if length])
        behind = WithContext(sentences, sizes, documents, self.context, self.longest)
        self._source = [behind[number] for number in range(skip, len(sentences))]
        sizes = behind.sizes[skip:]
        lengths[0] -= skip
        documents = Documents([length for length in lengths if length])
        self._remembered = [
            remember(encoder, self._source, sizes, documents, begins=begins if lengths[0] else None)
            for encoder, begins in zip(self.encoders, self._begins, strict=True)
        ]
        last = torch.tensor([len(sizes) - 1])
        self._begins = [kept.before(last)[:, 0] for kept in self._remembered]

    def select(self, lines: Sequence[int]) -> None:
        """Count lines anew: some of the chunk, each as often as it is given, are 0, 1, ..."""
        self._number = {index: self._number[line] for index, line in enumerate(lines)}

    def sentence(self, index: int) -> Tensor:
        """What the model reads for a line of the chunk: its tokens, behind its context."""
        return self._source[self._number[index]]

    def length(self, index: int) -> int:
        """How many tokens that is, without the end mark; 0 for a line without any."""
        number = self._number.get(index)
        return 0 if number is None else len(self._source[number]) - 1

    def memory(self, indices: Sequence[int]) -> dict[Any, Tensor]:
        """What memory begins as for lines of the chunk: for each encoder m x B x C."""
        numbers = torch.tensor([self._number[index] for index in indices])
        return {
            encoder: kept.before(numbers)
            for encoder, kept in zip(self.encoders, self._remembered, strict=True)
        }

    def _as_numbers(self, tokens: list[str]) -> Tensor:
        return torch.tensor([*map(self.words.index, tokens), self.words.eos()])


def hands_on(model: Any) -> bool:
    """Whether a model hands memory on."""
    return bool(getattr(model.encoder, "recurrent", False))


def context_of(task: Any) -> int:
    """How many sentences stand in front of each source."""
    return getattr(task.cfg, "context_sentences", None) or 0
