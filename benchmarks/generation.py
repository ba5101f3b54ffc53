"""Suite: beam search through fairseq's own generator, sentences a second."""

import importlib.util
import json
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_mem_text.arguments import positive
from fairseq_mem_text.files import sha256

import fairseq_mem

from .batches import REAL, Batches, evenly
from .contestants import SIZES, STOCK, USUAL, chosen, memory_flags, memory_name
from .exported import QUANTIZATIONS, TranslatingExported
from .measure import Failed, Work, Workload, bf16_supported, interleave
from .report import Report
from .suite import Suite

UNIT = "sentences"
SEARCH = "--max-len-a 1.2 --max-len-b 10 --required-batch-size-multiple 1"
ROOT = Path(__file__).resolve().parent.parent
# On top of USUAL, to have a usable model within minutes; as in examples/quickstart.
FAST_LEARNING = (
    "--dropout 0 --encoder-normalize-before --decoder-normalize-before --lr 3e-3 "
    "--warmup-updates 200 --max-tokens 3000"
)


@dataclass(frozen=True)
class Translating:
    """A checkpoint translates a test set, as fairseq-generate does it."""

    path: str
    data: str
    flags: str
    dtype: str
    sentences: int
    tokens: int
    overrides: dict[str, Any] = field(default_factory=dict)
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Load the model and the batches."""
        from fairseq import checkpoint_utils, tasks

        from .models import parse_generation

        cfg = parse_generation(f"{self.flags} --path {self.path}", self.data)
        task = tasks.setup_task(cfg.task)
        models, saved = checkpoint_utils.load_model_ensemble(
            [self.path], arg_overrides=dict(self.overrides), task=task
        )
        task.load_dataset(cfg.dataset.gen_subset, task_cfg=saved.task)
        data = task.dataset(cfg.dataset.gen_subset)
        samples = evenly(data, self.tokens, self.sentences)
        return search(cfg, task, models[0], samples, device, self.dtype, forced=False)


@dataclass(frozen=True)
class TranslatingUntrained:
    """An untrained model writes as many tokens as the reference has."""

    model_flags: str
    flags: str
    dtype: str
    batches: Batches
    overrides: dict[str, Any] = field(default_factory=dict)
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build the model and the batches."""
        from fairseq.tasks.translation import TranslationTask

        from .models import build_model, parse_generation

        cfg = parse_generation(self.flags, "none")
        words = self.batches.dictionary()
        task = TranslationTask(cfg.task, words, words)
        model = build_model(self.model_flags, words, self.overrides)
        samples = self.batches.samples()
        return search(cfg, task, model, samples, device, self.dtype, forced=True)


def search(
    cfg: Any, task: Any, model: Any, samples: list, device: str, dtype: str, forced: bool
) -> Callable[[], Work]:
    """What fairseq-generate does between loading and printing."""
    import torch
    from fairseq import utils

    if device == "cuda":
        model = model.to(
            {"float32": torch.float32, "fp16": torch.half, "bf16": torch.bfloat16}[dtype]
        )
        model.cuda()
        samples = [utils.move_to_cuda(sample) for sample in samples]
    model.prepare_for_inference_(cfg)
    model.eval()
    generator = task.build_generator([model], cfg.generation)

    def run() -> Work:
        hypotheses: dict[int, list[int]] = {}
        for sample in samples:
            if forced:
                length = sample["target"].size(1) - 1  # without </s>
                generator.max_len_a, generator.max_len_b = 0, length
                generator.min_len = length
            found = task.inference_step(generator, [model], sample)
            for number, beam in zip(sample["id"].tolist(), found, strict=True):
                hypotheses[number] = beam[0]["tokens"].tolist()
        return Work(len(hypotheses), {"hypotheses": hypotheses})

    return run


# ------------------------------------------------------------ contestants


def untrained(size: str, options: Namespace) -> dict[str, Workload]:
    """Models with random weights."""
    from .models import device_flags

    # small batches of few lengths: the padding of a forced search is work that nobody asked for
    batches = Batches(REAL, 500 if options.quick else 3000, 2, options.vocabulary)
    flags = {STOCK: "--arch transformer", memory_name("shared", 10): memory_flags("shared", 10)}
    found: dict[str, Workload] = {}
    for name, arch in flags.items():
        for suffix, overrides in _variants(arch, options):
            found[name + suffix] = TranslatingUntrained(
                f"{USUAL} {SIZES[size].flags} {arch}",
                f"{SEARCH} --beam {options.beam} {device_flags(options.device, 'float32')}",
                options.dtype,
                batches,
                overrides,
            )
    return found


def trained(checkpoints: dict[str, str], options: Namespace) -> dict[str, Workload]:
    """Models from checkpoints."""
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    from .models import device_flags

    found: dict[str, Workload] = {}
    for name, path in checkpoints.items():
        arch = load_checkpoint_to_cpu(path)["cfg"]["model"].arch
        for suffix, overrides in _variants(f"--arch {arch}", options):
            found[name + suffix] = Translating(
                path,
                options.data,
                f"{SEARCH} --beam {options.beam} {device_flags(options.device, 'float32')}",
                options.dtype,
                1 if options.quick else options.sentences,
                options.search_tokens,
                overrides,
            )
        for quantization in _quantizations(options):
            found[f"{name}-ct2-{quantization}"] = TranslatingExported(
                path,
                options.data,
                f"{SEARCH} --beam {options.beam} --path {path}",
                quantization,
                1 if options.quick else options.sentences,
                options.search_tokens,
            )
    return found


def _variants(arch: str, options: Namespace) -> list[tuple[str, dict[str, Any]]]:
    """As it is; and ours in bfloat16 where processor and model can."""
    from fairseq.models import ARCH_CONFIG_REGISTRY

    found: list[tuple[str, dict[str, Any]]] = [("", {})]
    known = Namespace()  # to become every option of the architecture
    ARCH_CONFIG_REGISTRY["mem_transformer"](known)
    ours = arch.startswith("--arch mem_")
    if ours and options.device == "cpu" and bf16_supported() and hasattr(known, "memory_bf16"):
        found.append(("-bf16", {"memory_bf16": True}))
    return found


def _quantizations(options: Namespace) -> tuple[str, ...]:
    """With which weights CTranslate2 competes, where it is installed."""
    there = importlib.util.find_spec("ctranslate2") and options.device == "cpu"
    return QUANTIZATIONS if there else ()


def train(options: Namespace, size: str) -> dict[str, str]:
    """Train a stock model and one of ours for some minutes each; what is there is kept."""
    from .models import device_flags

    flags = {STOCK: "--arch transformer", memory_name("shared", 10): memory_flags("shared", 10)}
    found = {}
    for name, arch in flags.items():
        folder = options.results / "checkpoints" / f"{size}-{name}-{options.train_minutes:g}min"
        found[name] = str(folder / "checkpoint_last.pt")
        if Path(found[name]).exists():
            continue
        print(f"training {name} for {options.train_minutes:g} minutes", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        words = (
            f"{USUAL} {SIZES[size].flags} {FAST_LEARNING} {arch} --no-epoch-checkpoints --seed 1 "
            "--update-epoch-batch-itr True "
            f"{device_flags(options.device, 'float32')}"
        ).split()
        command = [sys.executable, "-m", "fairseq_cli.train", options.data, *words]
        command += [
            "--user-dir",
            str(Path(fairseq_mem.__file__).parent),
            "--save-dir",
            str(folder),
            "--log-format",
            "simple",
        ]
        command += ["--stop-time-hours", str(options.train_minutes / 60), "--disable-validation"]
        with (folder / "train.log").open("w") as log:
            if subprocess.run(command, stdout=log, stderr=log).returncode != 0:
                raise Failed(f"fairseq-train failed, see {folder / 'train.log'}")
    return found


def quickstart(root: Path) -> tuple[Path, dict[str, str]]:
    """The quickstart's data in a checkout, and the models trained on it; none if there are none.

    fairseq's own, to compare with, is the trial of examples/wmt14_de_en, which has the same size
    and training (benchmarks/README.md says how to make it); one of other data is left out.
    """
    data = root / "examples" / "quickstart" / "work" / "data-bin"
    ours = list(data.parent.glob("run-*/model.pt"))
    if not (ours and (data / "settings.txt").is_file()):
        return data, {}
    found = {memory_name("shared", 10): str(max(ours, key=lambda path: path.stat().st_mtime))}
    run = root / "examples" / "wmt14_de_en" / "runs" / "trial" / "baseline" / "seed-1"
    if (run / "model.pt").is_file() and (run / "settings.json").is_file():
        settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
        if sha256(data / "settings.txt").startswith(settings["data_sha256"]):
            found = {STOCK: str(run / "model.pt")} | found
    return data, found


# ------------------------------------------------------------ the suite


def add_options(parser: Any) -> None:
    """This suite's options."""
    # fmt: off
    parser.add_argument("--checkpoints", nargs="+", type=_named_path, metavar="NAME=PATH",
                        help="trained models, the first is the one to compare with; needs --data")
    parser.add_argument("--data", metavar="DATA_BIN", help="binarised data with the test set")
    parser.add_argument("--train-minutes", type=float, metavar="M",
                        help="instead of --checkpoints: train the models first on --data; with "
                             "neither, the quickstart's, if it was run and no --sizes are given; "
                             "untrained ones write as many tokens as the reference has")
    parser.add_argument("--sentences", type=positive, default=1000, metavar="N",
                        help="about so many of the test set (default 1000)")
    parser.add_argument("--beam", type=positive, default=4, metavar="N", help="default 4")
    parser.add_argument("--search-tokens", type=positive, default=6000, metavar="N",
                        help="fairseq-generate's --max-tokens (default 6000)")
    # fmt: on


def _named_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and Path(path).is_file()):
        raise ArgumentTypeError(f"{text!r}: give NAME=PATH, PATH a checkpoint that is there")
    return name, str(Path(path).resolve())


def check(parser: ArgumentParser, options: Namespace) -> None:
    """Refuse what does not fit together."""
    if (options.checkpoints or options.train_minutes) and not options.data:
        parser.error("--checkpoints and --train-minutes need --data")
    if options.data and not Path(options.data).is_dir():
        parser.error(f"--data {options.data}: there is no such folder")


def run(options: Namespace, report: Report) -> None:
    """Measure trained models if there are any, else untrained ones."""
    sizes = options.sizes or ["small"]
    if not (options.data or options.sizes):
        data, checkpoints = quickstart(ROOT)
        if checkpoints:
            there = Namespace(**{**vars(options), "data": str(data)})
            workloads = trained(checkpoints, there)
            _cell(options, report, {"models": "quickstart"}, workloads)
        if STOCK in checkpoints:
            return
        report.note("benchmarks/README.md says how to compare with a trained model of fairseq's.")
    if options.checkpoints:
        _cell(options, report, {"models": "given"}, trained(dict(options.checkpoints), options))
        return
    for size in sizes:
        if options.train_minutes:
            workloads = trained(train(options, size), options)
            _cell(options, report, {"models": f"{size}, trained"}, workloads)
        else:
            report.note(
                "Untrained models: their search is held to the length of the longest reference "
                "in the batch. Speeds can be compared with each other only."
            )
            _cell(options, report, {"models": f"{size}, untrained"}, untrained(size, options))


def _cell(
    options: Namespace, report: Report, cell: dict[str, Any], workloads: dict[str, Workload]
) -> None:
    workloads = chosen(workloads, options.contestants)
    results = interleave(
        workloads, options.device, options.rounds, label=f"generation, {cell['models']}:"
    )
    columns: dict[str, dict[str, Any]] = {}
    first_of: dict[str, dict[int, list[int]]] = {}  # checkpoint -> its first contestant's output
    for name, samples in results.items():
        if isinstance(samples, Failed):
            continue
        detail = samples[0].detail
        outputs = detail["hypotheses"]
        columns[name] = {"tokens per sentence": sum(map(len, outputs.values())) / len(outputs)}
        told = ("threads", "model MB", "first step, ms")
        columns[name] |= {key: detail[key] for key in told if key in detail}
        workload = workloads[name]
        if isinstance(workload, Translating | TranslatingExported):
            twin = first_of.setdefault(workload.path, outputs)
            same = sum(outputs[number] == twin[number] for number in outputs)
            if twin is not outputs:
                columns[name]["same output as without"] = f"{same} of {len(outputs)}"
    reference = next(iter(workloads), STOCK)
    report.add(cell, UNIT, results, (reference,), columns)


SUITE = Suite("generation", "Beam search", add_options, run, check)
