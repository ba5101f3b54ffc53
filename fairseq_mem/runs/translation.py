"""A translation model: train, average, losses, translate the test set, score with sacreBLEU."""

import json
import math
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from fairseq_mem_text.progress import quoted, show

from ..files import write_text, write_whole
from . import training
from .checkpoints import final_checkpoints
from .stages import RunFailed, Stages

PLACEHOLDER = "THE LAST"  # how the word begins that stands for the checkpoints to be averaged

LOSSES = ("loss", "nll_loss")
PROGRESS = (
    (
        r"train_inner.* loss=([0-9.]+),.* wps=([0-9]+).* num_updates=([0-9]+),",
        "update {2} of {updates}: loss {0}, {1} tokens a second",
    ),
    (r"valid on .* loss ([0-9.]+) .* ppl ([0-9.]+) ", "validation loss {0}, perplexity {1}"),
)


@dataclass
class Translation:
    """The stages of a translation model's run.

    Args:
        commands: ``train``, ``validate``, ``translate`` and ``score``, and ``average`` if several
            checkpoints are to be averaged, with a word that begins with THE LAST for them.
        updates: the length of the training.
        devices: on how many it is trained.
        data: the binarised data.
        reference: the raw test set's target side.
        average: how many checkpoints make the model.
    """

    commands: dict[str, list[str]]
    updates: int
    devices: int
    data: Path
    reference: Path
    average: int = 1

    def shown_commands(self, folder: Path) -> list[list[str]]:
        """The commands of what is missing, to be shown instead of run (``DRY_RUN=1``)."""
        shown = dict(self.commands)
        if not (folder / "model.pt").exists():
            shown["train"] = training.training_command(shown["train"], folder)
        return list(shown.values())

    def run(self, stages: Stages) -> None:
        """Do what is missing.

        Raises:
            RunFailed: a stage failed.
        """
        if not (stages.folder / "model.pt").exists():
            self.train(stages)
        if not (stages.folder / "losses.txt").exists():
            with stages.stage("validate", "loss on the validation and the test set"):
                stages.run_whole(self.commands["validate"], stages.folder / "losses.txt")
        self.translate(stages)
        self.score(stages)
        self.write_result(stages.folder)

    def train(self, stages: Stages) -> None:
        """Train, and make the model of the last checkpoints."""
        folder = stages.folder
        if not final_checkpoints(folder, self.updates):
            check_test_set(self.data, self.commands["translate"], self.reference)
            training.train(stages, self.commands["train"], self.updates, PROGRESS)
        last = final_checkpoints(folder, self.updates, self.average)[::-1]
        if not last:
            raise RunFailed(f"no whole checkpoint of update {self.updates}")
        with stages.stage("average", "the model"):
            if self.average == 1:
                write_whole(folder / "model.pt", lambda partial: shutil.copyfile(last[0], partial))
                return
            if len(last) < self.average:
                print(
                    f"only {len(last)} of the last {self.average} checkpoints are whole; these are "
                    "averaged", flush=True,
                )  # fmt: skip
            command: list[str] = []
            for word in self.commands["average"]:
                command += map(str, last) if word.startswith(PLACEHOLDER) else [word]
            show(command)
            write_text(folder / "average.txt", f"+ {quoted(command)}\n")
            if stages.run(command) != 0:
                raise RunFailed("averaging failed")

    def translate(self, stages: Stages) -> None:
        """Translate the test set; fairseq's lines D- are its detokenised translations."""
        folder, expected = stages.folder, count_lines(self.reference)
        if not (folder / "hypotheses.txt").exists():
            with stages.stage("translate", f"translating {expected} sentences, beam 4"):
                output = folder / "generate.txt"
                stages.run_whole(self.commands["translate"], output, folder / "generate.log")
                text = output.read_bytes().decode("utf-8")  # a \r ends no line
                found = re.findall(r"^D-(\d+)\t[^\t\n]*\t(.*)$", text, re.MULTILINE)
                lines = [line for _, line in sorted(found, key=lambda match: int(match[0]))]
                write_text(folder / "hypotheses.txt", "".join(f"{line}\n" for line in lines))
        count = count_lines(folder / "hypotheses.txt")
        if count != expected:
            raise RunFailed(
                f"{count} translations for {expected} references; is REFERENCE={self.reference} "
                "right?"
            )

    def score(self, stages: Stages) -> None:
        """Compute BLEU and chrF, and keep the reference beside the translations."""
        folder = stages.folder
        with stages.stage("score", "scoring"):
            stages.run_whole(self.commands["score"], folder / "scores.json", folder / "score.log")
            write_whole(
                folder / "reference.txt",
                lambda partial: shutil.copyfile(self.reference, partial),
            )

    def write_result(self, folder: Path) -> None:
        """Write ``result.json`` and print the scores."""
        bleu, chrf = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        metrics = {"BLEU": bleu["score"], "chrF": chrf["score"]}
        for split in ("test", "valid"):
            found = losses(folder, split)
            metrics[f"{split} NLL (bits a token)"] = found["nll_loss"]
            metrics[f"{split} loss"] = found["loss"]
        averaged = folder / "average.txt"  # with the names of the checkpoints
        average = averaged.read_text(encoding="utf-8").splitlines() if averaged.exists() else []
        training.write_result(
            folder,
            self.devices,
            metrics,
            [
                quoted(self.commands["train"]),
                *(line.removeprefix("+ ") for line in average),
                quoted(self.commands["translate"]),
                quoted(self.commands["score"]),
            ],
            ["sacrebleu"],
            signatures={"BLEU": bleu["signature"], "chrF": chrf["signature"]},
        )
        print(f"{folder}: BLEU {bleu['score']:.1f}, chrF {chrf['score']:.1f}", flush=True)


def check_test_set(data: Path, command: list[str], reference: Path) -> None:
    """Before hours of training: is there a test set, and has its reference as many lines?

    Raises:
        RunFailed: there is none, or it has not.
    """
    source, target = (
        command[command.index(option) + 1] for option in ("--source-lang", "--target-lang")
    )
    index = data / f"test.{source}-{target}.{target}.idx"
    if not index.exists():
        raise RunFailed(f"{data} has no test set ({index.name}); binarise one with it")
    with index.open("rb") as file:  # fairseq's: magic, version, type, number of sentences
        (sentences,) = struct.unpack_from("<Q", file.read(26).ljust(26, b"\0"), 18)
    lines = count_lines(reference)
    if sentences != lines:
        raise RunFailed(
            f"{reference} has {lines} lines for the {sentences} sentences of the test set "
            "(fairseq-preprocess drops none); set REFERENCE to the right file"
        )


def count_lines(path: Path) -> int:
    """How many lines a file has; the last may lack its end."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def losses(folder: Path, split: str) -> dict[str, float]:
    """Loss (label-smoothed, as trained on) and its part without smoothing, bits a token."""
    text = (folder / "losses.txt").read_text(encoding="utf-8")
    lines = re.findall(rf"valid on '{split}' subset .*", text)
    found = {name: re.findall(rf"\| {name} (\S+)", "".join(lines[-1:])) for name in LOSSES}
    if not all(found.values()):
        raise RunFailed(f"{folder}/losses.txt tells no loss of {split}; remove it and run again")
    values = {name: float(texts[0]) for name, texts in found.items()}
    if not all(map(math.isfinite, values.values())):
        raise RunFailed(f"the loss on the {split} set is {values['loss']}: the training diverged")
    return values
