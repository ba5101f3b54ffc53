"""Suite: how often does the host wait for the device, in training and a step of beam search?

Counted by torch's profiler: on a GPU the calls of CUDA's runtime in which the host stands still,
and everywhere torch's operators that must know a value (they are what waits on a GPU).
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fairseq.logging import metrics

from .architectures import architectures, build
from .measure import one_line, progress, synchronise
from .report import Report
from .smoke import translate
from .suite import Suite

ASKING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::_unique2")
STOPS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def counted(work: Callable[[], Any], device: str) -> Counter[str]:
    """How often each of ASKING and STOPS occurs while ``work`` is done."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    synchronise(device)
    with torch.profiler.profile(activities=kinds) as profile:
        work()
    names = Counter(event.name for event in profile.events())
    return Counter({name: names[name] for name in (*ASKING, *STOPS) if names[name]})


def measure(arch: str, device: str, dtype: str) -> list[str]:
    """The cells of a row behind the architecture."""
    from .models import device_flags

    made = build(arch, device_flags(device, dtype))
    trainer = made.trainer
    with metrics.aggregate(new_root=True):
        for _ in range(2):  # what is only done the first time
            trainer.train_step([next(made.samples)])
        sample, _ = trainer._prepare_sample(next(made.samples))
        trainer.model.train()

        def step() -> None:
            trainer.criterion(trainer.model, sample)[0].backward()

        own = counted(step, device)
        trainer.zero_grad()
        update = counted(lambda: trainer.train_step([next(made.samples)]), device)
    cells = [_text(own), _text(update)]
    if not made.translates:
        return [*cells, ""]
    steps = 0
    decoder = trainer.model.decoder
    original = decoder.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return original(*args, **kwargs)

    translate(made, device)
    decoder.forward = forward
    try:
        search = counted(lambda: translate(made, device), device)
    finally:
        del decoder.forward
    return [*cells, _text(search, steps)]


def _text(found: Counter[str], steps: int = 1) -> str:
    """Operators that ask, and stops of the host; a step each, if there are several."""
    asked = sum(found[name] for name in ASKING)
    stopped = sum(found[name] for name in STOPS)
    texts = [f"{number / steps:.3g}" for number in (asked, stopped)]
    return f"{texts[0]} ({texts[1]})" if stopped else texts[0]


def add_options(parser: Any) -> None:
    """This suite has none of its own."""


def run(options: Namespace, report: Report) -> None:
    """A row for every architecture."""
    heads = ["architecture", "loss and gradients", "whole update", "a step of beam search"]
    lines = [heads, ["---"] + ["---:"] * 3]
    for arch in architectures()[: 3 if options.quick else None]:
        progress(f"waits: {arch}")
        try:
            cells = measure(arch, options.device, options.dtype)
        except (Exception, SystemExit) as error:
            cells = [f"failed: {one_line(error)}", "", ""]
        lines.append([arch, *cells])
    progress("")
    report.section("\n".join("| " + " | ".join(line) + " |" for line in lines))
    report.note(
        "Operators that must know a value; in brackets, on a GPU, the calls in which the host "
        "stood still. Two layers; a search of 12 steps with beam 4."
    )


SUITE = Suite("waits", "Waits: how often the host asks the device for a value", add_options, run)
