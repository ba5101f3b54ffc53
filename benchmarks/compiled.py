"""Suite: does ``torch.compile`` make training, or the loss of given translations, faster?

fairseq has no option for it. Here the model, or each of its layers, is compiled in place
(``torch.nn.Module.compile``), which leaves names, checkpoints and fairseq's trainer as they are.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .batches import REAL, Batches, Samples
from .contestants import RECOMMENDED, SIZES, STOCK, USUAL, chosen, memory_flags
from .measure import Work, Workload, interleave
from .report import Report
from .suite import Suite
from .training import updates

UNIT = "target tokens"
MODELS = {STOCK: "--arch transformer", "mem-10": f"{memory_flags('shared', 10)} {RECOMMENDED}"}
PARTS = ("", "layers", "model")  # what is compiled


@dataclass(frozen=True)
class Compiled:
    """fairseq's trainer over the batches, with a model that is compiled, or is not.

    Args:
        flags: fairseq-train's.
        batches: of every round.
        part: ``"layers"`` one by one, the whole ``"model"``, or ``""``.
        training: whole updates; otherwise the loss, without gradients.
    """

    flags: str
    batches: Samples
    part: str
    training: bool
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build all; the first round, which does not count, compiles."""
        from .models import build_trainer

        trainer = build_trainer(self.flags, self.batches.dictionary())
        samples = self.batches.samples()
        model = trainer.model
        if self.part == "model":
            model.compile(dynamic=True)
        elif self.part:
            for layer in (*model.encoder.layers, *model.decoder.layers):
                layer.compile(dynamic=True)
        if self.training:
            return updates(trainer, samples)

        def run() -> Work:
            for sample in samples:
                trainer.valid_step(sample)
            return Work(sum(sample["ntokens"] for sample in samples))

        return run


def add_options(parser: Any) -> None:
    """This suite has none of its own; it takes those of ``training``."""


def run(options: Namespace, report: Report) -> None:
    """Measure training and evaluation for every size asked for."""
    from .models import device_flags

    where = device_flags(options.device, options.dtype)
    for size in options.sizes or ["small" if options.quick else "iwslt"]:
        batches = Batches(REAL, options.batch_tokens or 3000, options.batches, options.vocabulary)
        for mode in ("training", "evaluation"):
            found: dict[str, Workload] = {
                f"{name}{part and '-compiled-'}{part}": Compiled(
                    f"{USUAL} {SIZES[size].flags} {where} {flags}",
                    batches, part, mode == "training",
                )
                for name, flags in MODELS.items()
                for part in PARTS
            }  # fmt: skip
            results = interleave(
                chosen(found, options.contestants), options.device, options.rounds,
                label=f"compile, {size}, {mode}:",
            )  # fmt: skip
            report.add({"size": size, "mode": mode}, UNIT, results, tuple(MODELS))


SUITE = Suite("compile", "torch.compile", add_options, run)
