"""Suite: what it costs to carry memory through documents, in training and in beam search.

Random words in sentences of recorded lengths, 20 to a document, through the task
``document_translation``, in batches of as many tokens; sentences in front of a source count.
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from .batches import REAL_LENGTHS, collate, dictionary
from .contestants import RECOMMENDED, SIZES, USUAL, chosen, memory_flags
from .generation import SEARCH, search
from .measure import Work, Workload, interleave
from .report import Report
from .suite import Suite
from .training import updates

MEMORY = memory_flags("shared", 10)
RECURRENT = f"{MEMORY} --memory-recurrence 4"
CONTESTANTS = {
    "fresh": MEMORY,
    "sentence": memory_flags("shared", 0),
    "context-1": f"{memory_flags('shared', 0)} --context-sentences 1",
    "context-3": f"{memory_flags('shared', 0)} --context-sentences 3",
    "plain-4": f"{RECURRENT} --memory-carry plain --read-before 0",
    "gate-4": f"{RECURRENT} --read-before 0",
    "gate-4-before": f"{RECURRENT} --read-before 8",
}
TASK = "--task document_translation --source-lang de --target-lang en"
WINDOW, DOCUMENT = 4, 20  # sentences


def write(folder: Path, split: str, words: int, sentences: int) -> None:
    """Binarise a split of random sentences, and the dictionaries."""
    from fairseq.data import indexed_dataset

    made = dictionary(words)
    numbers = torch.Generator().manual_seed(1)
    order = torch.randperm(sentences, generator=numbers).tolist()
    lengths = [REAL_LENGTHS[number % len(REAL_LENGTHS)] for number in order]
    for side, language in enumerate(("de", "en")):
        made.save(str(folder / f"dict.{language}.txt"))
        path = str(folder / f"{split}.de-en.{language}")
        builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=words)
        for pair in lengths:
            line = torch.randint(made.nspecial, words, (pair[side],), generator=numbers)
            line[-1] = made.eos()
            builder.add_item(line)
        builder.finalize(f"{path}.idx")
    names = "".join(f"{number // DOCUMENT}\n" for number in range(sentences))
    (folder / f"{split}.documents").write_text(names, encoding="utf-8")


@dataclass(frozen=True)
class Training:
    """fairseq's trainer takes whole updates; the batches are of windows of 4 sentences."""

    flags: str
    data: str
    words: int
    tokens: int
    batches: int
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build model, optimizer and batches."""
        from .models import build_trainer

        flags = (
            f"{self.flags} --max-tokens {self.tokens} --num-workers 0 --window-sentences {WINDOW}"
        )
        trainer = build_trainer(flags, dictionary(self.words), self.data)
        batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
        return updates(trainer, list(islice(batches, self.batches)))


@dataclass(frozen=True)
class Translating:
    """fairseq's generator, beam 4; the documents are read anew in every round.

    An untrained model writes as many tokens as the longest reference of the batch has.
    """

    flags: str
    data: str
    tokens: int
    dtype: str
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build model and batches."""
        from fairseq import tasks

        from .models import parse, parse_generation

        cfg = parse(self.flags, self.data)
        task = tasks.setup_task(cfg.task)
        model = task.build_model(cfg.model)
        task.load_dataset("test")
        data = task.dataset("test")
        how = parse_generation(f"{SEARCH} --beam 4 {TASK}", self.data)
        samples = collate(data, self.tokens, len(data))
        translate = search(how, task, model, samples, device, self.dtype, forced=True)

        def run() -> Work:
            task.load_dataset("test")  # nothing is remembered of the round before
            return translate()

        return run


def add_options(parser: Any) -> None:
    """This suite has none of its own; it takes those of ``training``."""


def run(options: Namespace, report: Report) -> None:
    """Measure training and beam search for every size asked for."""
    from .models import device_flags

    where = device_flags(options.device, options.dtype)
    words, tokens = options.vocabulary, options.batch_tokens or (500 if options.quick else 3000)
    with tempfile.TemporaryDirectory() as data:
        write(Path(data), "train", words, 4000)
        write(Path(data), "test", words, 40 if options.quick else 400)
        for size in options.sizes or ["small"]:
            flags = {
                name: f"{USUAL} {RECOMMENDED} {SIZES[size].flags} {where} {own} {TASK}"
                for name, own in CONTESTANTS.items()
            }
            training: dict[str, Workload] = {
                name: Training(own, data, words, tokens, options.batches)
                for name, own in flags.items()
            }
            translating: dict[str, Workload] = {
                name: Translating(own, data, tokens, options.dtype)
                for name, own in flags.items()
                if "--read-before 8" not in own  # of training alone
            }
            for mode, unit, found in (
                ("training", "target tokens", training),
                ("beam search", "sentences", translating),
            ):
                results = interleave(
                    chosen(found, options.contestants), options.device, options.rounds,
                    label=f"documents, {size}, {mode}:",
                )  # fmt: skip
                report.add({"size": size, "mode": mode}, unit, results, ("fresh",))
    report.note(
        f"Documents of {DOCUMENT} sentences, windows of {WINDOW}; untrained models, whose search "
        "is held to the length of the longest reference in the batch."
    )


SUITE = Suite("documents", "Documents", add_options, run)
