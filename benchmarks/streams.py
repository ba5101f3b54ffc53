"""Suite: Transformer-XL beside fairseq's language model, in training and in evaluation."""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from .contestants import RECOMMENDED, SIZES, Size, chosen
from .measure import Work, Workload, interleave
from .report import Report
from .suite import Suite

STOCK = "transformer_lm"
CACHED = "xl-cache"
OUR_FLAGS = "-our-flags"  # our criterion (without smoothing) and optimizer
TRAINED = ("xl", "xl-mem-10", "xl-recurrent-10-2")
ROWS, SEGMENT = 8, 128  # training: words a row in an update, and the cache's length
READ, CONTEXT = 64, 512  # evaluation: words that are scored at a time, and those before them
OURS = "--arch mem_transformer_xl --adaptive-softmax-cutoff ''"
USUAL = (
    "--criterion cross_entropy --optimizer adam --adam-betas (0.9,0.98) --weight-decay 0.01 "
    "--clip-norm 1 --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000"
)


def model_flags(name: str, size: Size, segment: int, cache: int) -> str:
    """A contestant's command line; its name is one of :func:`contestants`."""
    where = (
        f"--decoder-layers {size.layers} --decoder-embed-dim {size.dim} "
        f"--decoder-ffn-embed-dim {size.ffn} --decoder-attention-heads {size.heads} "
        f"--dropout {size.dropout} --batch-size {ROWS} --tokens-per-sample {segment}"
    )
    name, ours, _ = name.partition(OUR_FLAGS)
    if ours:
        where += f" {RECOMMENDED}"
    if name == STOCK:
        arch = "--task language_modeling --arch transformer_lm --share-decoder-input-output-embed"
        return f"{USUAL} {where} {arch}"
    kind, *numbers = name.split("-")[1:] or ["0"]
    memory = {
        "mem": "--memory-tokens {}", "recurrent": "--memory-tokens {} --memory-recurrence {}"
    }.get(kind, "--memory-tokens 0")  # fmt: skip
    task = "--task streaming_language_modeling"
    return f"{USUAL} {where} {task} {OURS} --cache-length {cache} {memory.format(*numbers)}"


def build(flags: str, words: int) -> Any:
    """Task and configuration, with a dictionary of so many words."""
    from fairseq.data import Dictionary
    from fairseq.tasks import setup_task

    from .models import parse

    made = Dictionary()
    for number in range(words - len(made)):
        made.add_symbol(f"w{number}")
    with tempfile.TemporaryDirectory() as folder:
        made.save(f"{folder}/dict.txt")
        cfg = parse(flags, folder)
        cfg.common.tpu = False  # as in models.build_trainer
        return setup_task(cfg.task), cfg


def batches(words: int, rows: int, length: int, segment: int | None) -> Iterator[dict[str, Any]]:
    """Random words; for ours (``segment`` is given) one long stream, for fairseq pieces."""
    generator = torch.Generator().manual_seed(1)
    for number in count():
        tokens = torch.randint(4, words, (rows, length + 1), generator=generator)
        given: dict[str, Any] = {"src_tokens": tokens[:, :-1].contiguous()}
        if segment is None:
            given["src_lengths"] = torch.full((rows,), length)
        else:
            given.update(segment=segment, position=number * length)
        yield {
            "id": torch.arange(rows), "net_input": given, "target": tokens[:, 1:].contiguous(),
            "ntokens": rows * length, "nsentences": rows,
        }  # fmt: skip


@dataclass(frozen=True)
class Training:
    """fairseq's trainer: forward, backward, clipping, update."""

    name: str
    size: Size
    dtype: str
    words: int
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build model, criterion and optimizer."""
        from fairseq.trainer import Trainer

        from .models import device_flags

        flags = model_flags(self.name, self.size, SEGMENT, SEGMENT)
        task, cfg = build(f"{flags} {device_flags(device, self.dtype)}", self.words)
        trainer = Trainer(
            cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        )
        length = getattr(task, "piece", SEGMENT)
        samples = batches(self.words, ROWS, length, getattr(task, "segment", None))

        def run() -> Work:
            trainer.train_step([next(samples)])
            return Work(ROWS * length)

        return run


@dataclass(frozen=True)
class Evaluation:
    """One row; so many words are scored at a time, with so many before them in view."""

    name: str
    size: Size
    dtype: str
    words: int
    counts_model: bool = False

    def start(self, device: str) -> Callable[[], Work]:
        """Build the model; fill its cache."""
        cached = self.name == CACHED
        name = STOCK if self.name.startswith(STOCK) else CACHED
        flags = model_flags(name, self.size, READ + CONTEXT, CONTEXT if cached else 0)
        task, cfg = build(flags, self.words)
        kind = {"float32": torch.float32, "fp16": torch.half, "bf16": torch.bfloat16}[self.dtype]
        model = task.build_model(cfg.model).to(device, kind).eval()
        length = READ if cached else READ + CONTEXT
        segment = None if name == STOCK else length
        samples = batches(self.words, 1, length, segment)

        @torch.no_grad()
        def once() -> None:
            given = next(samples)["net_input"]
            if not cached:
                given.pop("position", None)
            given["src_tokens"] = given["src_tokens"].to(device)
            features = model(**given, features_only=True)[0][:, -READ:]
            model.decoder.output_layer(features).log_softmax(dim=-1)

        for _ in range(CONTEXT // READ if cached else 1):
            once()

        def run() -> Work:
            times = 8
            for _ in range(times):
                once()
            return Work(times * READ)

        return run


def contestants(size: Size, mode: str, dtype: str, words: int) -> dict[str, Workload]:
    """All of them, by name."""
    if mode == "training":
        names = (STOCK, "xl", *(f"{name}{OUR_FLAGS}" for name in (STOCK, *TRAINED)))
        return {name: Training(name, size, dtype, words) for name in names}
    names = (f"{STOCK}-recompute", "xl-recompute", CACHED)
    return {name: Evaluation(name, size, dtype, words) for name in names}


def add_options(parser: Any) -> None:
    """This suite has none of its own."""


def run(options: Namespace, report: Report) -> None:
    """Measure every cell asked for."""
    for size in options.sizes or ["small"]:
        for mode in ("training", "evaluation"):
            workloads = contestants(SIZES[size], mode, options.dtype, options.vocabulary)
            label = f"streams, {size}, {mode}:"
            results = interleave(
                chosen(workloads, options.contestants), options.device, options.rounds, label=label
            )
            reference = STOCK if mode == "training" else f"{STOCK}-recompute"
            report.add({"size": size, "mode": mode}, "tokens", results, (reference, "xl-recompute"))
    report.note(
        f"Training: {ROWS} rows of {SEGMENT} words an update (recurrent-10-2: of two segments), "
        f"cache {SEGMENT}. Evaluation: {READ} words at a time with {CONTEXT} before them, from the "
        "cache or read again (as fairseq-eval-lm does with --context-window)."
    )


SUITE = Suite("streams", "Transformer-XL: training, and evaluation with a cache", add_options, run)
