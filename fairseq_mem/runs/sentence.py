"""A sentence encoder: fine-tune, predict the test set, score."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairseq_mem_text.progress import quoted

from ..files import write_text
from . import training
from .checkpoints import complete_best, final_checkpoints, is_whole
from .folder import Run
from .metrics import measured, read_predictions
from .stages import RunFailed, Stages
from .statistics import SCORES

PROGRESS = (
    (
        r"train_inner.* loss=([0-9.]+),.* num_updates=([0-9]+),",
        "update {1} of at most {updates}: loss {0}",
    ),
    (r"\| valid on 'valid' subset \| .*best_(\S+) ([0-9.e-]+)", "validation: best {0} so far {1}"),
    (r"early stop since (.*)", "stops early: {0}"),
)


@dataclass
class Sentence:
    """The stages of a sentence encoder's run.

    Args:
        commands: ``train`` and ``predict``.
        updates: the longest that the training may be.
        devices: on how many it is trained.
        metrics: of the test set, as ``SCORES`` has them.
        keep_model: leave the model there when all is done.
    """

    commands: dict[str, list[str]]
    updates: int
    devices: int
    metrics: list[str]
    keep_model: bool = True

    def shown_commands(self, folder: Path) -> list[list[str]]:
        """The commands of what is missing, to be shown instead of run (``DRY_RUN=1``)."""
        train = self.commands["train"]
        if not (folder / "model.pt").exists():
            train = training.training_command(train, folder)
        return [train, self.commands["predict"]]

    def run(self, stages: Stages) -> None:
        """Do what is missing.

        Raises:
            RunFailed: a stage failed.
        """
        folder = stages.folder
        if not (folder / "predictions.tsv").exists():
            if not (folder / "model.pt").exists():
                self.train(stages)
            with stages.stage("predict", "predicting the test set"):
                stages.run_whole(self.commands["predict"], folder / "predict.txt")
        self.write_result(folder)

    def train(self, stages: Stages) -> None:
        """Train until patience or the updates end; the checkpoint that validated best remains."""
        complete_best(stages.folder)
        if not final_checkpoints(stages.folder, self.updates):  # fairseq would do one more update
            training.train(stages, self.commands["train"], self.updates, PROGRESS)
        best = stages.folder / "checkpoint_best.pt"
        if not is_whole(best):
            raise RunFailed(f"{best} is damaged; remove the folder {stages.folder}")
        os.replace(best, stages.folder / "model.pt")

    def write_result(self, folder: Path) -> None:
        """Write ``result.json``, when what is not to stay is gone, and print the scores."""
        try:
            predictions, targets = read_predictions(Run(folder, folder.name))
        except (ValueError, OSError) as error:
            raise RunFailed(f"{error}; remove {folder}/predictions.tsv and run again") from None
        scores = scores_of(self.metrics, targets, predictions)
        values = {name: float(str(entry["value"])) for name, entry in scores.items()}
        # before the result: nobody looks at a finished run again
        for checkpoint in folder.glob("checkpoint*.pt"):  # what a training leaves to go on with
            checkpoint.unlink()
        if not self.keep_model:
            (folder / "model.pt").unlink(missing_ok=True)
        training.write_result(folder, self.devices, values, map(quoted, self.commands.values()))
        print(f"{folder}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))


def scores_of(
    metrics: Sequence[str], targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, dict[str, object]]:
    """The metrics' entries of ``result.json``, in percent.

    Args:
        metrics: names in ``SCORES``.
        targets: classes or numbers.
        predictions: one for each target.

    Raises:
        RunFailed: a metric wants numbers, and they are not finite.
    """
    found = {}
    for name in metrics:
        prepare, score = SCORES[name]
        try:
            expected, predicted = prepare([targets, predictions])
        except ValueError as error:
            raise RunFailed(f"no {name}: {error}") from None
        found[name] = measured(name, 100 * score(predicted, expected))
    return found


def write_predictions(path: Path, targets: Sequence[str], predictions: Sequence[str]) -> None:
    """Write ``predictions.tsv``: a line for each example, whole or not at all."""
    lines = [f"{target}\t{prediction}\n" for target, prediction in zip(targets, predictions)]
    write_text(path, "".join(["target\tprediction\n", *lines]))
