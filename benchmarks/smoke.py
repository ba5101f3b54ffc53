"""Suite: does every architecture train, validate and translate, in every precision there is?"""

import math
import time
from argparse import Namespace
from typing import Any

from fairseq.logging import metrics

from .architectures import architectures, build, left_out
from .measure import one_line, progress
from .report import Report
from .suite import Suite

UPDATES, QUICK = 15, 2
FAST = "--lr 2e-3 --lr-scheduler fixed --warmup-updates 0 --clip-norm 1 --fp16-init-scale 128"


def precisions(device: str) -> tuple[str, ...]:
    """fairseq's trainer has no half precision on a CPU."""
    return ("float32",) if device == "cpu" else ("fp16", "bf16", "amp")


def smoke(arch: str, device: str, dtype: str, updates: int) -> list[str]:
    """Train on one batch, validate, translate.

    Returns:
        The cells of a row behind architecture and precision.

    Raises:
        RuntimeError: a loss is no number, or does not fall.
    """
    from .models import device_flags

    where = device_flags(device, "float32") + " --amp" if dtype == "amp" else ""
    begin = time.perf_counter()
    made = build(arch, where or device_flags(device, dtype), FAST)
    losses = []
    with metrics.aggregate(new_root=True):
        for _ in range(updates):
            logged = made.trainer.train_step([next(made.samples)])
            if logged is not None:  # else the loss scale was too large, which is no failure
                losses.append(float(logged["loss"]))
        valid = float(made.trainer.valid_step(next(made.samples))["loss"])
    if not losses or not all(map(math.isfinite, [*losses, valid])):
        raise RuntimeError(f"a loss is no number: {losses[-3:]}, validation {valid}")
    if losses[-1] >= losses[0] and len(losses) > 1:
        raise RuntimeError(f"the loss does not fall: {losses[0]:.3f} to {losses[-1]:.3f}")
    translated = "translates" if made.translates else ""
    if made.translates:
        translate(made, device)
    seconds = time.perf_counter() - begin
    return [f"{losses[0]:.2f}", f"{losses[-1]:.2f}", str(updates - len(losses)), f"{valid:.2f}",
            translated, f"{seconds:.1f}"]  # fmt: skip


def translate(made: Any, device: str) -> list[Any]:
    """Search the next batch with beam 4, in the precision of the trainer's model."""
    from fairseq import utils

    from .models import parse_generation

    cfg = parse_generation("--beam 4 --max-len-a 0 --max-len-b 12", "none")
    model, task = made.trainer.model, made.trainer.task
    model.eval()
    sample = next(made.samples)
    sample = utils.move_to_cuda(sample) if device == "cuda" else sample
    generator = task.build_generator([model], cfg.generation)
    found = task.inference_step(generator, [model], sample)
    if not all(math.isfinite(float(beam[0]["score"])) for beam in found):
        raise RuntimeError("a translation's score is no number")
    return found


def add_options(parser: Any) -> None:
    """This suite has none of its own."""


def run(options: Namespace, report: Report) -> None:
    """A row for every architecture and precision; one that fails leaves the others alone."""
    heads = ["architecture", "precision", "first loss", "last loss", "overflows", "validation",
             "beam search", "seconds"]  # fmt: skip
    updates = QUICK if options.quick else UPDATES
    lines, failed = [heads, ["---", "---"] + ["---:"] * 6], 0
    for dtype in precisions(options.device):
        for arch in architectures():
            progress(f"smoke, {dtype}: {arch}")
            try:
                cells = smoke(arch, options.device, dtype, updates)
            except (Exception, SystemExit) as error:
                failed += 1
                cells = [f"**failed**: {one_line(error)}", "", "", "", "", ""]
            lines.append([arch, dtype, *cells])
    progress("")
    report.section("\n".join("| " + " | ".join(line) + " |" for line in lines))
    report.note(f"{updates} updates of fairseq's trainer on one batch, 2 layers of 64.")
    if left_out():
        report.note(f"Left out, for they are of other kinds: {', '.join(left_out())}.")
    if failed:
        raise RuntimeError(f"{failed} of {len(lines) - 2} failed")


SUITE = Suite("smoke", "Smoke test: every architecture, every precision", add_options, run)
