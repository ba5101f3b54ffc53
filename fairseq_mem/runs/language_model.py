"""A language model: train, take the best checkpoint, evaluate it with fairseq-eval-lm."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from fairseq_mem_text.progress import quoted

from ..files import write_whole
from . import training
from .checkpoints import complete_best, final_checkpoints, is_whole
from .stages import RunFailed, Stages

PROGRESS = (
    (
        r"train_inner.* ppl=([0-9.]+|inf),.* wps=([0-9]+).* num_updates=([0-9]+),",
        "update {2} of {updates}: perplexity {0}, {1} words a second",
    ),
    (r"\| valid on 'valid' subset \| .*ppl ([0-9.]+) ", "validation: perplexity {0}"),
)
METRICS = {  # by evaluation
    "test": "perplexity",
    "valid": "valid perplexity",
    "test-zero-read": "zero-read perplexity",
}


@dataclass
class LanguageModel:
    """The stages of a language model's run.

    Args:
        commands: ``train``, and an evaluation for each name in ``METRICS`` that is wanted.
        updates: the length of the training.
        devices: on how many it is trained.
    """

    commands: dict[str, list[str]]
    updates: int
    devices: int

    @property
    def evaluations(self) -> dict[str, list[str]]:
        """The commands but that of the training."""
        return {name: command for name, command in self.commands.items() if name != "train"}

    def shown_commands(self, folder: Path) -> list[list[str]]:
        """The commands of what is missing, to be shown instead of run (``DRY_RUN=1``)."""
        train = self.commands["train"]
        if not (folder / "model.pt").exists():
            train = training.training_command(train, folder)
        return [train, *self.evaluations.values()]

    def run(self, stages: Stages) -> None:
        """Do what is missing.

        Raises:
            RunFailed: a stage failed.
        """
        folder = stages.folder
        if not (folder / "model.pt").exists():
            self.train(stages)
        for name, command in self.evaluations.items():
            if not (folder / f"{name}.txt").exists():
                with stages.stage("evaluate", f"perplexity of {name}"):
                    stages.run_whole(command, folder / f"{name}.txt")
        self.write_result(folder)

    def train(self, stages: Stages) -> None:
        """Train, and make the model of the checkpoint with the best validation loss."""
        folder = stages.folder
        complete_best(folder)
        if not final_checkpoints(folder, self.updates):
            training.train(stages, self.commands["train"], self.updates, PROGRESS)
        if not final_checkpoints(folder, self.updates):
            raise RunFailed(f"no whole checkpoint of update {self.updates}")
        best = folder / "checkpoint_best.pt"
        if not is_whole(best):
            raise RunFailed(f"{best} is damaged; remove the folder {folder}")
        write_whole(folder / "model.pt", lambda partial: shutil.copyfile(best, partial))

    def write_result(self, folder: Path) -> None:
        """Write ``result.json`` and print the perplexities."""
        metrics = {}
        for name in self.evaluations:
            text = (folder / f"{name}.txt").read_text(encoding="utf-8")
            found = re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", text)
            scored = re.search(r"Evaluated ([\d,]+) tokens", text)
            if found is None or scored is None or scored[1] == "0":
                raise RunFailed(f"{folder}/{name}.txt tells no perplexity; remove it and run again")
            metrics[METRICS[name]] = float(found[2])
            if name == "test":
                metrics["test NLL (bits a word)"] = float(found[1])
        commands = map(quoted, self.commands.values())
        training.write_result(folder, self.devices, metrics, commands)
        scores = (f"{name} {value:.2f}" for name, value in metrics.items())
        print(f"{folder}: {', '.join(scores)}", flush=True)
