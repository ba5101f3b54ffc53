"""The largest activations of models, out of what `fairseq-mem attention` wrote of them.

usage: activations.py FOLDER     with MODEL-SEED/states.csv and attention.csv
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mem.runs.tables import markdown

TEXT = ("words", "punctuation", "marks")
OUTLIERS = {"words": "words", "punctuation": "marks, punctuation", "marks": "marks, punctuation",
            "memory": "memory"}  # fmt: skip


def told(values: Sequence[float], digits: int) -> str:
    """A mean and its spread."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}" if values else ""


def measures(folder: Path) -> dict[str, float]:
    """Of one model: the largest activations, the share of positions that are outliers behind the
    encoder's last layer, and where the decoder attends in the source.
    """  # fmt: skip
    largest: dict[str, float] = defaultdict(float)
    positions: dict[str, tuple[float, float]] = {}
    with (folder / "states.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            group = "text" if row["positions"] in TEXT else row["positions"]
            name = f"{row['side']}, {group}"
            largest[name] = max(largest[name], float(row["largest_activation"]))
            if row["side"] == "encoder":  # layer by layer: the last one stays
                positions[row["positions"]] = float(row["outliers"]), float(row["number"])
    outliers: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for group, counts in positions.items():
        outliers[f"outliers: {OUTLIERS[group]}"].append(counts)
    shares: dict[str, list[float]] = defaultdict(list)
    with (folder / "attention.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["attention"], row["rows"]) == ("cross", "text"):
                rest = float(row["to_marks"]) + float(row["to_punctuation"])
                shares["marks, punctuation"].append(rest)
                away = sum(float(row[f"to_{name}"]) for name in ("memory", "static", "sink"))
                shares["memory or control"].append(away)
    return {
        **largest,
        **{
            name: 100 * sum(count for count, _ in some) / max(1, sum(number for _, number in some))
            for name, some in outliers.items()
        },
        **{name: fmean(values) for name, values in shares.items()},
    }


def main() -> None:
    """Run the command line."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"usage: activations.py FOLDER; {' '.join(sys.argv[1:])!r} is none")
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(Path(sys.argv[1]).glob("*/states.csv")):
        found[path.parent.name.rpartition("-")[0]].append(measures(path.parent))
    if not found:
        sys.exit(f"activations: nothing in {sys.argv[1]}; run fairseq-mem attention first")
    columns = ["encoder, text", "encoder, memory", "decoder, text"]
    outliers = [f"outliers: {group}" for group in dict.fromkeys(OUTLIERS.values())]
    shares = ["marks, punctuation", "memory or control"]
    rows = []
    for model, some in found.items():
        row = [model, len(some)]
        row += [told([one[name] for one in some if name in one], 1) for name in columns + outliers]
        row += [told([one[name] for one in some if name in one], 3) for name in shares]
        rows.append(row)
    head = ["model", "seeds", *(f"largest activation: {name}" for name in columns),
            *(f"encoder, {name}, %" for name in outliers),
            *(f"decoder attends to {name}" for name in shares)]  # fmt: skip
    print("\n".join(markdown(head, rows)))


if __name__ == "__main__":
    main()
