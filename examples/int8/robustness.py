"""Does memory make a translation model more robust to int8? See the README.

    python robustness.py RUNS --data DATA_BIN --out FOLDER

Two steps for every checkpoint `RUNS/.../MODEL/seed-N/model.pt`, each with a result of its own in
FOLDER, so that an interruption loses one step at most:

- ``MODEL/seed-N/bleu.json``: the model as float32 and as int8 export, both translate the test set;
- ``MODEL/seed-N/activations.json``: the largest activations of every layer over the test set.

Then `report.md`, `bleu.csv` and `activations.csv` of all that is there.
"""

import argparse
import csv
import io
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from fairseq_mem_text.arguments import positive
from fairseq_mem_text.files import sha256
from fairseq_mem_text.lines import read_lines
from fairseq_mem_text.settings import read_settings
from torch import Tensor

import fairseq_mem
from fairseq_mem.files import write_text
from fairseq_mem.tools.export import export

QUANTIZATIONS = ("float32", "int8")
SIGNIFICANT = 16  # digits of a checkpoint's SHA-256


def main() -> int:
    """Measure what is missing, then report."""
    args = command_line()
    runs = find_runs(args.runs)
    unusable = {}
    for run in runs:
        try:
            for step, measure in (("bleu", bleu), ("activations", activations)):
                complete(args, run, step, measure)
        except (fairseq_mem.UserError, OSError) as error:  # the others can still be measured
            unusable[run] = str(error).splitlines()[0]
            print(f"{name(run)}: {unusable[run]}", file=sys.stderr)
    written = report(args.out, [run for run in runs if run not in unusable], unusable)
    print(written)
    return bool(unusable)


def command_line() -> argparse.Namespace:
    """The command line, with the test set's raw text filled in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA_BIN")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--source", type=Path, help="raw test text (default: raw/ beside DATA_BIN)")
    parser.add_argument("--reference", type=Path, help="its translation (default: raw/ beside it)")
    parser.add_argument("--beam", type=positive, default=4)
    parser.add_argument("--length-penalty", type=float, default=0.6)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    args = parser.parse_args()
    settings = read_settings(args.data)
    if not settings:
        parser.error(f"{args.data} is no data of preprocess.sh (no settings.txt in it)")
    for option, side in (("source", "source"), ("reference", "target")):
        language = settings[side]
        path = getattr(args, option) or args.data.parent / "raw" / f"test.{language}"
        if not path.is_file():
            parser.error(f"there is no {path}; give --{option}")
        setattr(args, option, path)
    return args


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Folders of a trained model, sorted by model and seed."""
    found = {path.parent for folder in folders for path in folder.rglob("model.pt")}
    if not found:
        sys.exit(f"no model.pt under {', '.join(map(str, folders))}")

    def order(run: Path) -> tuple:
        numbered = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name(run))]
        return (run.parent.name != "baseline", numbered)

    return sorted(found, key=order)


def name(run: Path) -> str:
    """What a run is called: MODEL/seed-N."""
    return f"{run.parent.name}/{run.name}"


def complete(
    args: argparse.Namespace, run: Path, step: str, measure: Callable[..., dict[str, Any]]
) -> None:
    """Measure and write down, unless it was done with this checkpoint and these options."""
    path = args.out / name(run) / f"{step}.json"
    asked = {
        "checkpoint": digest(run / "model.pt"),
        "text": [digest(args.source), digest(args.reference)],
        "beam": args.beam,
        "length_penalty": args.length_penalty,
    }
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["asked"] == asked:
        return
    print(f"{name(run)}: {step}", file=sys.stderr)
    result = {"asked": asked, **measure(args, run / "model.pt")}
    write_text(path, json.dumps(result, indent=1) + "\n")


def digest(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    return sha256(path)[:SIGNIFICANT]


# ------------------------------------------------------------ BLEU


def bleu(args: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """BLEU of both exports, their sizes, and how many translations are the same."""
    from fairseq_mem_serve import load_translator

    sources, references = read_lines(args.source), read_lines(args.reference)
    found: dict[str, list[str]] = {}
    result: dict[str, Any] = {"sentences": len(sources)}
    metric = sacrebleu.BLEU()
    for quantization in QUANTIZATIONS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "exported"
            export(checkpoint, args.data, folder, quantization)
            size = (folder / "model.bin").stat().st_size
            translator = load_translator(folder, threads=1, inter_threads=args.threads)
        found[quantization] = translator.translate(
            sources, beam=args.beam, length_penalty=args.length_penalty
        )
        score = metric.corpus_score(found[quantization], [references]).score
        result[quantization] = {"bleu": score, "bytes": size}
    result["same"] = sum(a == b for a, b in zip(*found.values(), strict=True))
    result["signature"] = str(metric.get_signature())
    return result


# ------------------------------------------------------------ activations


class Peaks:
    """Largest absolute values of the positions that went through one point of the model."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.ratios = 0.0  # sum over positions of largest / root of the mean square
        self.positions = 0

    def add(self, rows: Tensor) -> None:
        """Look at N x C values."""
        if rows.numel() == 0:
            return
        peaks = rows.abs().amax(dim=1)
        self.largest = max(self.largest, peaks.max().item())
        self.ratios += (peaks / rows.pow(2).mean(dim=1).sqrt().clamp_min(1e-30)).sum().item()
        self.positions += rows.size(0)

    def summary(self) -> dict[str, float] | None:
        """The largest, and the mean over positions of the peak's ratio; None without positions."""
        if self.positions == 0:
            return None
        return {"largest": self.largest, "peak_to_rms": self.ratios / self.positions}


def activations(args: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """Peaks of every layer, of text and of memory apart, teacher-forced over the test set.

    A layer's ``output`` is what the residual stream holds behind it, ``inner`` what its
    feed-forward part multiplies with its second matrix. CTranslate2 makes integers of each
    position's vector by its largest value: the greater that is beside the others, the fewer levels
    are left for them.
    """
    from fairseq import checkpoint_utils

    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], {"data": str(args.data)}
    )
    model = models[0].eval()
    task.load_dataset("test")
    data = task.dataset("test")
    batches = data.batch_by_size(
        data.ordered_indices(), max_tokens=4000, required_batch_size_multiple=1
    )
    pad = task.source_dictionary.pad()
    found: dict[tuple[str, int, str, str], Peaks] = {}
    kept: dict[str, Tensor] = {}  # of the batch at hand: T x B, True at text

    def watch(side: str, layer: int, point: str) -> Callable[..., None]:
        def look(values: Tensor) -> None:  # (m+T) x B x C
            text = kept[side]
            memory = values.size(0) - text.size(0)
            parts = {"memory": values[:memory].flatten(0, 1), "text": values[memory:][text]}
            for part, rows in parts.items():
                found.setdefault((side, layer, point, part), Peaks()).add(rows)

        if point == "output":
            return lambda module, inputs, output: look(
                output[0] if isinstance(output, tuple) else output
            )
        return lambda module, inputs: look(inputs[0])

    handles = []
    for side in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, side).layers, 1):
            handles.append(layer.register_forward_hook(watch(side, number, "output")))
            handles.append(layer.fc2.register_forward_pre_hook(watch(side, number, "inner")))
    with torch.no_grad():
        for batch in batches:
            inputs = data.collater([data[index] for index in batch])["net_input"]
            kept["encoder"] = inputs["src_tokens"].ne(pad).T
            kept["decoder"] = inputs["prev_output_tokens"].ne(pad).T
            model(**inputs)
    for handle in handles:
        handle.remove()
    rows = [
        {"side": side, "layer": layer, "point": point, "part": part, **summary}
        for (side, layer, point, part), peaks in sorted(found.items())
        if (summary := peaks.summary())
    ]
    return {"rows": rows}


# ------------------------------------------------------------ the report


def report(out: Path, runs: list[Path], unusable: dict[Path, str]) -> str:
    """Write the tables and return the Markdown."""
    results = {
        run: {
            step: json.loads((out / name(run) / f"{step}.json").read_text(encoding="utf-8"))
            for step in ("bleu", "activations")
        }
        for run in runs
    }
    models = list(dict.fromkeys(run.parent.name for run in runs))
    of = {model: [results[run] for run in runs if run.parent.name == model] for model in models}
    rows = [
        ["model", "seed", "bleu_float32", "bleu_int8", "same", "sentences", "bytes_float32",
         "bytes_int8"],
    ]  # fmt: skip
    for run in runs:
        found = results[run]["bleu"]
        quantized = [found[quantization] for quantization in QUANTIZATIONS]
        rows.append(
            [run.parent.name, run.name, *(q["bleu"] for q in quantized), found["same"],
             found["sentences"], *(q["bytes"] for q in quantized)]
        )  # fmt: skip
    write_csv(out / "bleu.csv", rows)
    keys = ["side", "layer", "point", "part", "largest", "peak_to_rms"]
    write_csv(
        out / "activations.csv",
        [["model", "seed", *keys]]
        + [
            [run.parent.name, run.name, *(row[key] for key in keys)]
            for run in runs
            for row in results[run]["activations"]["rows"]
        ],
    )
    parts = ["## What int8 costs", table(list(bleu_rows(of)))]
    if runs:
        parts.append(f"BLEU: `{results[runs[0]]['bleu']['signature']}`. Mean ± standard deviation "
                     "over seeds; lost: float32 minus int8, seed by seed.")  # fmt: skip
    for point, what in (
        ("output", "Largest absolute activation behind each layer"),
        ("inner", "Largest absolute activation inside each feed-forward part"),
    ):
        for key, unit in (("largest", ""), ("peak_to_rms", ", as a multiple of its vector's root "
                                            "mean square, mean over positions")):  # fmt: skip
            parts += [f"## {what}{unit}", table(list(activation_rows(of, point, key)))]
    parts.append("Means over seeds; E encoder, D decoder.")
    parts += [f"- **{name(run)} could not be measured**: {why}" for run, why in unusable.items()]
    text = "\n\n".join(parts)
    write_text(out / "report.md", text + "\n")
    return text


def bleu_rows(of: dict[str, list[dict[str, Any]]]) -> Iterator[list[str]]:
    """A heading, then a row for every model."""
    yield ["model", "seeds", "BLEU float32", "BLEU int8", "lost", "same text", "int8 size"]
    for model, results in of.items():
        found = [result["bleu"] for result in results]
        exact, rounded = ([f[q]["bleu"] for f in found] for q in QUANTIZATIONS)
        yield [
            model,
            str(len(found)),
            mean(exact),
            mean(rounded),
            mean([a - b for a, b in zip(exact, rounded, strict=True)]),
            f"{sum(f['same'] for f in found) / sum(f['sentences'] for f in found):.1%}",
            f"{statistics.mean(f['int8']['bytes'] / f['float32']['bytes'] for f in found):.2f}",
        ]


def activation_rows(
    of: dict[str, list[dict[str, Any]]], point: str, key: str
) -> Iterator[list[str]]:
    """A heading, then a row for every model and part (text, memory) of its positions."""
    rows = [row for results in of.values() for r in results for row in r["activations"]["rows"]]
    layers = sorted({(row["side"] != "encoder", row["layer"]) for row in rows})
    yield ["model", "positions", *(f"{'D' if late else 'E'}{number}" for late, number in layers)]
    for model, results in of.items():
        for part in ("text", "memory"):
            cells = []
            for late, number in layers:
                values = [
                    row[key]
                    for result in results
                    for row in result["activations"]["rows"]
                    if (row["side"] != "encoder", row["layer"]) == (late, number)
                    and (row["point"], row["part"]) == (point, part)
                ]
                cells.append(f"{statistics.mean(values):.2f}" if values else "")
            if any(cells):
                yield [model, part, *cells]


def mean(values: list[float]) -> str:
    """With the standard deviation, where there is one."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def table(rows: list[list[str]]) -> str:
    """As Markdown; the first row is the heading."""
    rule = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def write_csv(path: Path, rows: list[list[Any]]) -> None:
    """Write a CSV file, whole."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
