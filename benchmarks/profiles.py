"""Suite: where the time goes, for fairseq's model and for ours, in training and in generation."""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import generation, training
from .batches import REAL, Batches
from .contestants import SIZES, chosen
from .measure import Failed, Work, Workload, interleave, synchronise
from .report import Report
from .suite import Suite

# Operators of torch by what they are for; the first group with a matching part of the name wins.
# An operator that no group names (mul, add, copy_, fill_, ...) belongs to the nearest operator
# around it that has a group, and otherwise to one of GENERAL.
GROUPS = {
    "optimizer, clipping": (
        "optimizer", "Optimizer.", "clip-grads", "multiply-grads", "_fused_adam",
    ),
    "attention": (
        "scaled_dot_product", "flash_attention", "aten::bmm", "aten::baddbmm", "aten::_softmax",
        "aten::softmax", "_transformer_encoder_layer", "_native_multi_head",
    ),
    "log-softmax, loss": (
        "log_softmax", "nll_loss", "LabelSmoothed", "aten::gather", "cross_entropy",
    ),
    "products with weights": (
        "aten::addmm", "aten::mm", "aten::linear", "mkldnn_linear", "mkl_linear", "mkldnn",
    ),
    "dropout": ("dropout", "bernoulli"),
    "layer norm": ("layer_norm", "LayerNorm"),
    "embedding": ("embedding", "Embedding"),
    "cache reordering, index_select": ("index_select", "IndexSelect"),
    "top-k": ("topk", "aten::sort"),
}  # fmt: skip
GENERAL = {
    "concatenation, copies": ("aten::cat", "copy_", "clone", "contiguous", "aten::stack"),
    "masks, fills": (
        "fill", "zero", "aten::eq", "aten::ne", "where", "aten::any", "triu", "bitwise", "logical",
        "ones", "full",
    ),
    "sums (gradients of biases)": ("aten::sum",),
    "arithmetic (residuals, scales, gradients of dropout)": (
        "aten::add", "aten::mul", "aten::div", "aten::sub", "relu", "threshold", "aten::neg",
    ),
}  # fmt: skip
OTHER = "other operators"
WHOLE = "the whole round"
PYTHON = "Python and torch's own overhead"


@dataclass(frozen=True)
class Profiled:
    """Another workload, under torch's profiler."""

    inner: Workload
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Start the other workload."""
        run_inner = self.inner.start(device)
        run_inner()

        def run() -> Work:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if device == "cuda":
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            with (
                torch.profiler.profile(activities=kinds) as profile,
                torch.profiler.record_function(WHOLE),
            ):
                work = run_inner()
                synchronise(device)
            return Work(work.units, {"groups": by_group(profile.events(), device)})

        return run


def by_group(events: Any, device: str) -> dict[str, float]:
    """Microseconds of every group, from the profiler's events.

    On a GPU the time counts that the device spends for an operator.
    """
    found: defaultdict[str, float] = defaultdict(float)
    whole = 0.0
    for event in events:
        if event.name == WHOLE:
            whole += event.cpu_time_total
            continue
        if device == "cuda":
            found[group_of(event)] += event.self_device_time_total
        elif event.name.startswith(("aten::", "mkldnn", "mkl")):
            found[group_of(event)] += event.self_cpu_time_total
    if device == "cpu":
        found[PYTHON] = max(0.0, whole - sum(found.values()))
    return dict(found)


def group_of(event: Any) -> str:
    """The group of an operator, see GROUPS."""
    names = []
    around = event
    while around is not None:
        names.append(around.name)
        around = around.cpu_parent
    if any(part in name for name in names for part in GROUPS["optimizer, clipping"]):
        return "optimizer, clipping"
    for name in names:
        for group, parts in GROUPS.items():
            if any(part in name for part in parts):
                return group
    for group, parts in GENERAL.items():
        if any(part in names[0] for part in parts):
            return group
    return OTHER


def add_options(parser: Any) -> None:
    """This suite has none of its own."""


def run(options: Namespace, report: Report) -> None:
    """A table for training and one for generation, for every size asked for."""
    for size in options.sizes or ["small" if options.quick else "iwslt"]:
        tokens = options.batch_tokens or 3000
        batches = Batches(REAL, tokens, 1, options.vocabulary)
        jobs: dict[str, dict[str, Workload]] = {
            "training": training.contestants(SIZES[size], batches, options.device, options.dtype)
        }
        if options.checkpoints:
            jobs["generation"] = generation.trained(dict(options.checkpoints), options)
        else:
            jobs["generation, untrained"] = generation.untrained(size, options)
        for job, workloads in jobs.items():
            patterns = options.contestants
            if patterns == ["*"] and job == "training":
                patterns = ["fairseq", "mem-10*"]
            profiled = {name: Profiled(w) for name, w in chosen(workloads, patterns).items()}
            results = interleave(
                profiled, options.device, 1, warmup=0, label=f"profile, {size}, {job}:"
            )
            report.section(f"### {size}, {job}\n\n{table(results)}")
    report.note("The profiler itself takes time, most of it in the row for Python.")


def table(results: dict[str, Any]) -> str:
    """Shares of the time, a column for every contestant, and the time itself."""
    good = {
        name: samples[0] for name, samples in results.items() if not isinstance(samples, Failed)
    }
    groups = [*GROUPS, *GENERAL, OTHER, PYTHON]
    heads = ["", *good]
    lines = [heads, ["---", *["---:"] * len(good)]]
    for group in groups:
        parts = []
        for sample in good.values():
            times = sample.detail["groups"]
            part = times.get(group, 0.0)
            parts.append(f"{100 * part / sum(times.values()):.1f} % ({part / 1000:,.0f} ms)")
        lines.append([group, *parts])
    whole = [f"{sum(s.detail['groups'].values()) / 1000:,.0f} ms" for s in good.values()]
    lines.append(["**together**", *whole])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    for name, samples in results.items():
        if isinstance(samples, Failed):
            text += f"\n\n{name}: {samples}"
    return text


SUITE = Suite("profile", "Where the time goes", add_options, run)
