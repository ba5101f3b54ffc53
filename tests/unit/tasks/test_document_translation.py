"""What ``--task document_translation`` remembers, for how long; whose documents it reads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset
from helpers.random_models import build, dictionary, sentences

from fairseq_mem.streaming.documents import DocumentPairs, Documents
from fairseq_mem.tasks.document_translation import DocumentTranslationTask

LENGTHS = [3, 5, 2, 4]
TEXT = [row[row.ne(dictionary().pad())] for row in sentences(LENGTHS)]


def task_of(data="") -> DocumentTranslationTask:
    """The task with one split of two documents."""
    words = dictionary()
    cfg = SimpleNamespace(
        window_sentences=None, context_sentences=None, read_before=None, load_alignments=False,
        num_batch_buckets=0, max_source_positions=100, data=data, train_subset="train",
        upsample_primary=-1,
    )  # fmt: skip
    task = DocumentTranslationTask(cfg, words, words)
    pairs = LanguagePairDataset(TEXT, LENGTHS, words, TEXT, LENGTHS, words)
    task.datasets["valid"] = DocumentPairs(pairs, Documents([3, 1]), "valid")
    return task


def before(task, model) -> torch.Tensor:
    """The memory before each sentence: m x 4 x C."""
    return task.remembered(model, "valid").before(torch.arange(4))


def test_documents_are_read_without_dropout_whatever_the_mode():
    model = build(memory_tokens=2, memory_recurrence=2, dropout=0.5)
    expected = before(task_of(), model)
    model.train()
    assert torch.equal(before(task_of(), model), expected)
    assert model.encoder.training


def test_what_was_remembered_ends_with_an_update():
    model, task = build(memory_tokens=2, memory_recurrence=2), task_of()
    held = before(task, model)
    optimizer = SimpleNamespace(backward=lambda loss: None)
    task.train_step({}, model, lambda model, sample: (torch.zeros(1), 1, {}), optimizer, 0)
    with torch.no_grad():
        model.encoder.memory.weight.add_(1)
    assert not torch.equal(before(task, model), held)


@pytest.mark.parametrize("split, epoch, lengths", [
    ("train", 1, [1, 3]), ("train", 2, [2, 2]), ("train", 3, [1, 3]), ("valid", 2, [4]),
])  # fmt: skip
def test_of_several_folders_the_epochs_one_has_the_documents(tmp_path, split, epoch, lengths):
    """As of fairseq's data: those of training in turn, all else in the first."""
    for folder, of_train, of_valid in (("0", "abbb", "aaaa"), ("1", "aabb", "aabb")):
        (tmp_path / folder).mkdir()
        for name, text in (("train", of_train), ("valid", of_valid)):
            (tmp_path / folder / f"{name}.documents").write_text("\n".join(text) + "\n")
    task = task_of(f"{tmp_path / '0'}:{tmp_path / '1'}")
    documents = task._documents(split, epoch, SimpleNamespace(src=TEXT))
    assert np.array_equal(documents.lengths, lengths)
