"""Documents in chunks, however they are cut, are read as documents in one piece."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.random_models import EXACT, build, dictionary, sentences

from fairseq_mem import UserError
from fairseq_mem.streaming.documents import Documents, WithContext
from fairseq_mem.streaming.remembered import remember
from fairseq_mem.tools.documents import DocumentReader

WORDS = dictionary()
LENGTHS = [3, 1, 4, 2]
ROWS = [row[row.ne(WORDS.pad())] for row in sentences([4, 3, 6, 2, 5, 4, 3, 2, 4, 3])]
DOCUMENTS = Documents(LENGTHS)


def lines() -> list[tuple[list[str], bool]]:
    """With empty lines between the documents, one of them twice, and one line without tokens."""
    found = []
    for number, row in enumerate(ROWS):
        if number in DOCUMENTS.starts:
            found += [([], True)] * (2 if number == 4 else 1)
        found.append(([WORDS[word] for word in row[:-1]], False))
        if number == 5:
            found.append(([], False))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("recurrence", [0, 3])
def test_chunks_of_any_size(size, context, recurrence):
    model = build(memory_tokens=3, memory_recurrence=recurrence)
    task = SimpleNamespace(
        source_dictionary=WORDS, cfg=SimpleNamespace(context_sentences=context or None)
    )
    if context == recurrence == 0:
        with pytest.raises(UserError, match="translates sentence by sentence; leave it out"):
            DocumentReader(task, [model], 30)
        return
    sizes = np.array([len(row) for row in ROWS])
    source = WithContext(ROWS, sizes, DOCUMENTS, context, 30)
    kept = remember(model.encoder, source, source.sizes, DOCUMENTS) if recurrence else None
    reader, number = DocumentReader(task, [model], 30), 0
    text = lines()
    for start in range(0, len(text), size):
        chunk = text[start : start + size]
        reader.read([tokens for tokens, _ in chunk], [end for _, end in chunk])
        for index, (tokens, _) in enumerate(chunk):
            if not tokens:
                assert reader.length(index) == 0
                continue
            assert torch.equal(reader.sentence(index), source[number])
            assert reader.length(index) == len(source[number]) - 1
            memory = reader.memory([index])
            assert len(memory) == bool(recurrence)
            for of_encoder in memory.values():
                expected = kept.before(torch.tensor([number]))
                torch.testing.assert_close(of_encoder, expected, **EXACT)
            number += 1
    assert number == len(ROWS)
