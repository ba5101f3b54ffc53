"""Suite: what it costs to carry memory through documents, in training and in beam search.

Random words in sentences of recorded lengths, 20 to a document, through the task
``document_translation``: all contestants see the same batches.
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
    "plain-4": f"{RECURRENT} --memory-carry plain",
    "gate-4": RECURRENT,
    "gate-4-before": f"{RECURRENT} --read-before 8",
}
WINDOW, DOCUMENT = 4, 20  # sentences
SEARCH = "--max-len-a 1.2 --max-len-b 10 --required-batch-size-multiple 1"


def write(folder: Path, words: int, sentences: int) -> Any:
    """Binarise random sentences for training and test; returns the dictionary of both sides."""
    from fairseq.data import indexed_dataset

    made = dictionary(words)
    numbers = torch.Generator().manual_seed(1)
    order = torch.randperm(sentences, generator=numbers).tolist()
    lengths = [REAL_LENGTHS[number % len(REAL_LENGTHS)] for number in order]
    for side, language in enumerate(("de", "en")):
        made.save(str(folder / f"dict.{language}.txt"))
        path = str(folder / f"train.de-en.{language}")
        builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=words)
        for pair in lengths:
            line = torch.randint(made.nspecial, words, (pair[side],), generator=numbers)
            line[-1] = made.eos()
            builder.add_item(line)
        builder.finalize(f"{path}.idx")
    names = "".join(f"{number // DOCUMENT}\n" for number in range(sentences))
    (folder / "train.documents").write_text(names, encoding="utf-8")
    return made


@dataclass(frozen=True)
class Training:
    """fairseq's trainer takes whole updates; the batches are of windows of 4 sentences."""

    flags: str
    words: int
    tokens: int
    batches: int
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Write the text; build model, optimizer and batches."""
        from .models import build_trainer

        with tempfile.TemporaryDirectory() as folder:
            words = write(Path(folder), self.words, 4000)
            flags = (
                f"{self.flags} --source-lang de --target-lang en --max-tokens {self.tokens} "
                f"--num-workers 0 --window-sentences {WINDOW}"
            )
            trainer = build_trainer(flags, words, folder)
            batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
            return updates(trainer, list(islice(batches, self.batches)))


@dataclass(frozen=True)
class Translating:
    """fairseq's generator, beam 4; the documents are read anew in every round.

    An untrained model writes as many tokens as the longest reference of the batch has.
    """

    flags: str
    words: int
    tokens: int
    sentences: int
    dtype: str
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Write the text; build model and batches."""
        from fairseq.tasks import TASK_REGISTRY

        from .generation import search
        from .models import parse, parse_generation

        folder = tempfile.TemporaryDirectory()  # as long as the round needs it
        words = write(Path(folder.name), self.words, self.sentences)
        languages = "--task document_translation --source-lang de --target-lang en"
        cfg = parse(f"{self.flags} {languages}", folder.name)
        task: Any = TASK_REGISTRY["document_translation"](cfg.task, words, words)
        model = task.build_model(cfg.model)
        task.load_dataset("train")
        samples = collate(task.dataset("train"), self.tokens, self.sentences)
        how = parse_generation(f"{SEARCH} --beam 4 {languages}", folder.name)
        translate = search(how, task, model, samples, device, self.dtype, forced=True)

        def run() -> Work:
            assert folder
            task.load_dataset("train")  # nothing is remembered of the round before
            return translate()

        return run


def add_options(parser: Any) -> None:
    """This suite has none of its own; it takes those of ``training``."""


def run(options: Namespace, report: Report) -> None:
    """Measure training and beam search for every size asked for."""
    from .models import device_flags

    where = device_flags(options.device, options.dtype)
    task = "--task document_translation"
    tokens = options.batch_tokens or (500 if options.quick else 3000)
    for size in options.sizes or ["small"]:
        for mode in ("training", "beam search"):
            found: dict[str, Workload] = {}
            for name, own in CONTESTANTS.items():
                if mode != "training" and "--read-before" in own:  # of training alone
                    continue
                flags = f"{USUAL} {RECOMMENDED} {SIZES[size].flags} {where} {own} {task}"
                found[name] = (
                    Training(flags, options.vocabulary, tokens, options.batches)
                    if mode == "training"
                    else Translating(
                        flags, options.vocabulary, tokens, 40 if options.quick else 400,
                        options.dtype,
                    )
                )  # fmt: skip
            results = interleave(
                chosen(found, options.contestants), options.device, options.rounds,
                label=f"documents, {size}, {mode}:",
            )  # fmt: skip
            unit = "target tokens" if mode == "training" else "sentences"
            report.add({"size": size, "mode": mode}, unit, results, ("fresh",))
    report.note(
        f"Documents of {DOCUMENT} sentences, windows of {WINDOW}; untrained models, whose search "
        "is held to the length of the longest reference in the batch."
    )


SUITE = Suite("documents", "Documents", add_options, run)
