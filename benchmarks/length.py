"""Suite: the encoder's time and memory against the length of the source."""

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fairseq_mem.updates import UPDATES

from .batches import REAL, Batches
from .contestants import SIZES, STOCK, USUAL, chosen, memory_flags, memory_name
from .measure import MIB, Failed, Sample, Work, Workload, exponent, interleave, spread
from .report import Report
from .suite import Suite

UNIT = "source tokens"
TOKENS = 20  # memory
FIT = (1024, 8192)  # the exponent is fitted between these lengths
BOTTLENECK = memory_name("bottleneck", TOKENS)
SHORTEST_ROUND = 0.3  # seconds


@dataclass(frozen=True)
class Encoding:
    """One sentence through the encoder; in training also back, with the model's dropout."""

    flags: str
    length: int
    training: bool
    dtype: str
    words: int
    counts_model: bool = False  # what an encoder needs on top of its parameters

    def start(self, device: str) -> Callable[[], Work]:
        """Build the encoder and the sentence; run a short one, which loads the libraries."""
        from .models import build_model

        batches = Batches(self.length, self.length, 1, self.words)
        kind = {"float32": torch.float32, "fp16": torch.half, "bf16": torch.bfloat16}[self.dtype]
        encoder = build_model(self.flags, batches.dictionary()).encoder.to(device, kind)
        encoder.train(self.training)
        source = batches.samples()[0]["net_input"]["src_tokens"].to(device)

        def once(tokens: torch.Tensor) -> None:
            lengths = torch.tensor([tokens.size(1)], device=device)
            with torch.set_grad_enabled(self.training):
                states = encoder(tokens, lengths)["encoder_out"][0]
                if self.training:
                    states.float().pow(2).mean().backward()
            for parameter in encoder.parameters():
                parameter.grad = None

        once(source[:, :64])
        times: list[int] = []

        def run() -> Work:
            if not times:  # the first round, which is not counted, says how often fills a round
                start = time.perf_counter()
                once(source)
                times.append(max(1, int(SHORTEST_ROUND / (time.perf_counter() - start))))
            for _ in range(times[0]):
                once(source)
            return Work(times[0] * self.length)

        return run


def contestants(size: str, length: int, training: bool, options: Namespace) -> dict[str, Workload]:
    """fairseq's encoder, and ours with every update that is about length."""
    flags = {STOCK: "--arch transformer"}
    for update in ("shared", "bottleneck"):
        if update in UPDATES:
            flags[memory_name(update, TOKENS)] = memory_flags(update, TOKENS)
    dropout = options.attention_dropout if training else 0.0
    common = f"{USUAL} {SIZES[size].flags} --attention-dropout {dropout}"
    return {
        name: Encoding(
            f"{common} --max-source-positions {length + 1} {arch}",
            length,
            training,
            options.dtype,
            options.vocabulary,
        )
        for name, arch in flags.items()
    }


def add_options(parser: Any) -> None:
    """This suite's options."""
    parser.add_argument(
        "--attention-dropout",
        type=float,
        default=0.0,
        metavar="P",
        help="in training; above 0, full attention holds all n x n weights on a CPU (default 0)",
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("training", "inference"),
        default=("training", "inference"),
        help="training: forward and backward, with dropout (default: both)",
    )


def run(options: Namespace, report: Report) -> None:
    """Measure every cell asked for; then the exponents."""
    if "bottleneck" not in UPDATES:
        report.note("This version has no `--memory-update bottleneck`: left out.")
    quick = [64, 128]
    default = quick if options.quick else [512, 1024, 2048, 4096, 8192]
    lengths = [length for length in options.lengths or default if length != REAL]
    fits = []
    for size in options.sizes or ["small"]:
        for mode in options.modes:
            measured: dict[str, dict[int, list[Sample]]] = {}
            for length in sorted(lengths):
                workloads = contestants(size, length, mode == "training", options)
                results = interleave(
                    chosen(workloads, options.contestants),
                    options.device,
                    options.rounds,
                    label=f"length, {size}, {mode}, {length}:",
                )
                cell = {"size": size, "mode": mode, "length": length}
                if options.attention_dropout:
                    cell["attention dropout"] = options.attention_dropout
                columns = {}
                for name, samples in results.items():
                    if not isinstance(samples, Failed):
                        measured.setdefault(name, {})[length] = samples
                        columns[name] = {"ms per sentence": 1000 * _seconds(samples, length)}
                report.add(cell, UNIT, results, (STOCK,), columns)
            fits += _fits(size, mode, measured)
    if fits:
        heads = ("size", "mode", "encoder", "exponent of time", "exponent of memory", "at 8,192")
        lines = [heads, ("---",) * len(heads), *fits]
        report.section(
            f"Least squares on log-log between {FIT[0]:,} and {FIT[1]:,} source tokens:\n\n"
            + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        )
    report.note(
        "One sentence at a time. Peak memory is what a pass needs on top of the parameters, "
        "measured in a process of its own."
    )


def _seconds(samples: list[Sample], length: int) -> float:
    """Median time of one sentence."""
    return length / spread(sample.speed for sample in samples)["median"]


def _peak(samples: list[Sample]) -> int:
    """At least a MiB: below that the system's counting is too coarse."""
    return max(MIB, *(sample.peak for sample in samples))


def _fits(
    size: str, mode: str, measured: dict[str, dict[int, list[Sample]]]
) -> list[tuple[str, ...]]:
    """A line for every contestant that ran at two lengths or more of the range."""
    lines: list[tuple[str, ...]] = []
    bottleneck = measured.get(BOTTLENECK, {}).get(FIT[1])
    for name, by_length in measured.items():
        inside = [length for length in by_length if FIT[0] <= length <= FIT[1]]
        if len(inside) < 2:
            continue
        numbers = [float(length) for length in inside]
        in_time = exponent(numbers, [_seconds(by_length[n], n) for n in inside])
        in_memory = exponent(numbers, [float(_peak(by_length[n])) for n in inside])
        there = by_length.get(FIT[1])
        ratio = ""
        if there and bottleneck and name != BOTTLENECK:
            faster = _seconds(there, FIT[1]) / _seconds(bottleneck, FIT[1])
            smaller = _peak(there) / _peak(bottleneck)
            ratio = f"bottleneck is {faster:.1f} × faster, {smaller:.1f} × smaller"
        if max(inside) < FIT[1]:
            ratio = f"fitted up to {max(inside):,} only"
        lines.append((size, mode, name, f"{in_time:.2f}", f"{in_memory:.2f}", ratio))
    return lines


SUITE = Suite("length", "The encoder against the source's length", add_options, run)
