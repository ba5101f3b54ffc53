"""Agreement by distance: which model still knows what "it" was? See the README.

    python by_distance.py FOLDER                              data, all runs, report
    python by_distance.py FOLDER --jobs 12 --device cuda      several runs at a time

Every run leaves `runs/MODEL-UPDATES-SEED/result.json`; one that has it is not done again, one that
was interrupted goes on from its last checkpoint. Then `report.md`, `report.csv` and, with
matplotlib, `report.png` of all that is there after so many updates.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from agreement import PRONOUNS, TESTED, TRAINED

HERE = Path(__file__).resolve().parent
SLOTS = 4
# sentences of a window, and options; all see 256 sentences in an update
MODELS: dict[str, tuple[int, list[str]]] = {
    "sentence": (4, ["--memory-tokens", "0"]),
    "fresh": (4, ["--memory-tokens", f"{SLOTS}"]),
    "context-1": (4, ["--memory-tokens", "0", "--context-sentences", "1"]),
    "context-3": (4, ["--memory-tokens", "0", "--context-sentences", "3"]),
}
BEFORE = 8  # sentences in front of a window, read without gradient
for carry, k, before in (
    *product(("plain", "gate"), (2, 4), (0,)), ("plain", 4, BEFORE), ("gate", 4, BEFORE),
):  # fmt: skip
    MODELS[f"{carry}-{k}{'-before' if before else ''}"] = (
        k,
        [
            "--memory-tokens", f"{SLOTS}", "--memory-recurrence", f"{k}", "--memory-carry", carry,
            "--read-before", f"{before}",
        ],
    )  # fmt: skip
SENTENCES = 256


def options(data: Path, run: Path, model: str, seed: int, updates: int, device: str) -> list[str]:
    """The words behind ``fairseq-train``."""
    window, chosen = MODELS[model]
    return [
        str(data), "--task", "document_translation", "--source-lang", "en", "--target-lang", "de",
        # the model
        "--arch", "mem_transformer", *chosen, "--encoder-layers", "2", "--decoder-layers", "2",
        "--encoder-embed-dim", "64", "--decoder-embed-dim", "64", "--encoder-ffn-embed-dim", "128",
        "--decoder-ffn-embed-dim", "128", "--encoder-attention-heads", "4",
        "--decoder-attention-heads", "4", "--share-decoder-input-output-embed", "--dropout", "0",
        "--max-source-positions", "256", "--max-target-positions", "256",
        # the training; a rate that falls before the jump comes would look like failure
        "--criterion", "cross_entropy", "--window-sentences", str(window),
        "--batch-size", str(SENTENCES // window), "--optimizer", "adam", "--adam-betas",
        "(0.9, 0.98)", "--clip-norm", "1", "--lr", "2e-3", "--lr-scheduler", "fixed",
        "--warmup-updates", "200", "--max-update", str(updates), "--seed", str(seed),
        "--required-batch-size-multiple", "1", "--update-epoch-batch-itr", "True",
        # what is written
        "--save-dir", str(run), "--save-interval-updates", "500", "--keep-interval-updates", "1",
        "--no-epoch-checkpoints", "--disable-validation", "--log-format", "simple",
        "--log-interval", "100", "--num-workers", "0", *([] if device == "cuda" else ["--cpu"]),
        "--distributed-world-size", "1",
    ]  # fmt: skip


def work(data: Path, run: Path, model: str, seed: int, updates: int, device: str) -> str:
    """Train and score one model, in a process of its own; what it says goes to `run.log`."""
    if device == "cpu":  # fairseq clips gradients on a GPU if it sees one, and --cpu then fails
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli.train import main as train

    import fairseq_mem  # noqa: F401  (registers model and task)

    torch.set_num_threads(1)
    run.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with open(run / "run.log", "a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    words = options(data, run, model, seed, updates, device)
    print("+ fairseq-train", *words, flush=True)
    parser = fairseq_options.get_training_parser()
    train(convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words)))
    result = {
        "model": model, "seed": seed, "updates": updates, "device": device,
        "right": score(run / "checkpoint_last.pt", data, device),
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    partial = run / "result.json.partial"
    partial.write_text(json.dumps(result) + "\n")
    partial.rename(run / "result.json")
    for path in run.glob("checkpoint_*_*.pt"):
        path.unlink()
    return f"{model}-{seed}: {result['seconds']} s"


def score(checkpoint: Path, data: Path, device: str) -> dict[str, float]:
    """How often the right one of the three translations is the most likely, by distance.

    Of every test document the last sentence counts; its target comes three times, with each
    pronoun.
    """
    import torch

    from fairseq_mem.tools.loading import load_translation_model

    model, cfg, task, _ = load_translation_model(checkpoint, data)
    model.to(device).eval()
    task.load_dataset("test", task_cfg=cfg.task)
    dataset = task.dataset("test")
    names = (data / "test.documents").read_text().split("\n")
    last = dataset.documents.starts[1:] - 1
    forms = [task.target_dictionary.index(pronoun) for pronoun in PRONOUNS]
    pad = task.target_dictionary.pad()
    right, seen = Counter[int](), Counter[int]()
    for batch in (last[start : start + 100] for start in range(0, len(last), 100)):
        sample = dataset.collater([dataset[int(number)] for number in batch])
        sample = moved(task.with_memory(sample, [model]), device)
        place = sum(sample["target"].eq(form) for form in forms).bool()  # B x T
        if not bool((place.sum(1) == 1).all()):
            raise SystemExit(
                "by_distance.py: a test sentence has not one pronoun; make the data anew"
            )
        scores = []
        for form in forms:
            target = sample["target"].masked_fill(place, form)
            inputs = dict(sample["net_input"])
            before = inputs["prev_output_tokens"].clone()
            before[:, 1:] = torch.where(target[:, :-1].eq(2), pad, target[:, :-1])
            inputs["prev_output_tokens"] = before
            with torch.no_grad():
                logits = model(**inputs)[0].float().log_softmax(-1)
            of_words = logits.gather(2, target.unsqueeze(2)).squeeze(2)
            scores.append(of_words.masked_fill(target.eq(pad), 0).sum(1))
        best = torch.stack(scores).argmax(0)
        told = torch.tensor(forms, device=place.device)[best]
        truth = sample["target"][place]
        for number, hit in zip(sample["id"].tolist(), told.eq(truth).tolist()):
            distance = int(names[number].split("-")[0])
            seen[distance] += 1
            right[distance] += hit
    return {str(distance): right[distance] / seen[distance] for distance in sorted(seen)}


def moved(sample: Any, device: str) -> Any:
    """A batch on the device; memory's dictionary is by encoder."""
    from fairseq.utils import apply_to_sample

    return apply_to_sample(lambda tensor: tensor.to(device), sample)


def prepare(folder: Path) -> Path:
    """The binarised data."""
    data = folder / "data"
    if not (data / "complete").exists():
        shutil.rmtree(data, ignore_errors=True)
        if not (folder / "text" / "test.documents").exists():
            subprocess.run([sys.executable, HERE / "agreement.py", folder / "text"], check=True)
        prefixes = [
            word
            for split in ("train", "valid", "test")
            for word in (f"--{split}pref", folder / "text" / split)
        ]
        subprocess.run(
            [sys.executable, "-m", "fairseq_cli.preprocess", "-s", "en", "-t", "de", *prefixes,
             "--destdir", data, "--workers", "1"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for split in ("train", "valid", "test"):
            shutil.copy(folder / "text" / f"{split}.documents", data)
        (data / "complete").touch()
    return data


def results(folder: Path, updates: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The results of each model after so many updates, of all seeds."""
    for model in MODELS:
        paths = (folder / "runs").glob(f"{model}-{updates}-*/result.json")
        found = [json.loads(path.read_text()) for path in paths]
        if found:
            yield model, sorted(found, key=lambda result: result["seed"])


def report(folder: Path, updates: int) -> str:
    """Write table and chart; returns the table."""
    distances = [str(distance) for distance in range(TESTED + 1)]
    lines = ["| model | seeds | " + " | ".join(distances) + " |", "|---" * (TESTED + 3) + "|"]
    rows = []
    for model, found in results(folder, updates):
        cells = []
        for distance in distances:
            values = [100 * result["right"][distance] for result in found]
            spread = f" ({min(values):.0f}-{max(values):.0f})" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.0f}{spread}")
            rows += [[model, r["seed"], distance, r["right"][distance]] for r in found]
        lines.append(f"| {model} | {len(found)} | " + " | ".join(cells) + " |")
    table = f"After {updates:,} updates:\n\n" + "\n".join(lines) + "\n"
    (folder / "report.md").write_text(table)
    with open(folder / "report.csv", "w", newline="") as file:
        csv.writer(file).writerows([["model", "seed", "distance", "right"], *rows])
    try:
        if rows:
            draw(folder, updates)
    except ImportError:
        print("no chart: matplotlib is not installed", file=sys.stderr)
    return table


def draw(folder: Path, updates: int) -> None:
    """Accuracy against distance; behind the line are distances that training never had."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for model, found in results(folder, updates):
        means = [100 * fmean(r["right"][str(d)] for r in found) for d in range(TESTED + 1)]
        style = {"gate": "-", "plain": "--"}.get(model.split("-")[0], ":")
        axes.plot(range(TESTED + 1), means, style, marker="o", markersize=3, label=model)
    axes.axhline(100 / 3, color="#bbbbbb", linewidth=1)
    axes.axvline(TRAINED + 0.5, color="#bbbbbb", linewidth=1)
    axes.set_xlabel(f'sentences from the noun to "it" (in training at most {TRAINED})')
    axes.set_ylabel("right pronoun, %")
    axes.set_ylim(0, 103)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(folder / "report.png", metadata={"Software": None})


def main() -> int:
    """Do what is missing, then report."""
    parser = argparse.ArgumentParser(description="Agreement by distance; see the README.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="everything made here")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--updates", type=int, default=3000, metavar="N", help="default 3000")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--prepare-only", action="store_true", help="make the data and stop")
    args = parser.parse_args()
    folder = args.folder.resolve()
    data = prepare(folder)
    if args.prepare_only:
        return 0
    runs = []
    for seed in args.seeds:  # all models of one seed before the next
        for model in args.models:
            run = folder / "runs" / f"{model}-{args.updates}-{seed}"
            if not (run / "result.json").exists():
                runs.append((data, run, model, seed, args.updates, args.device))
    failed = 0
    with ProcessPoolExecutor(
        args.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        for run, future in [(run, pool.submit(work, *run)) for run in runs]:
            try:
                print(future.result(), flush=True)
            except Exception as error:
                failed += 1
                print(f"{run[1].name} failed: {error}; see {run[1] / 'run.log'}", file=sys.stderr)
    print(report(folder, args.updates))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
