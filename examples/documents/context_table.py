"""What models of documents make of their context, over all seeds: a table. See the README.

    python context_table.py RUNS OUT

Reads what run.sh leaves beside every result below RUNS, `context.json` and `terms.txt`, and writes
a Markdown table for each group of comparable runs to OUT.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fairseq_mem_text import files

from fairseq_mem.errors import UserError
from fairseq_mem.files import write_text
from fairseq_mem.runs.collect import by_group, find_runs, natural, title_of
from fairseq_mem.runs.statistics import difference
from fairseq_mem.runs.tables import markdown, signed

BASELINE = "sentence"
HEAD = ["model", "seeds", "first sentence", "later ones", f"later ones − {BASELINE}",
        "reset − carried", "other − carried", "terms as before"]  # fmt: skip
BELOW = """Losses of the test set's references, nats a token, means over seeds. Differences to the
model `sentence` with their 95 % interval over seeds. Reset, other: later sentences without what is
carried, and with a random other document's, minus those with their own; behind it in how many
seeds the 95 % interval over documents lies above / below 0. Terms: repeated source terms that are
translated as before{reference}."""


@dataclass
class Found:
    """What a run found out, read once."""

    first: float  # loss of first sentences, and of later ones, with what is carried
    later: float
    differences: dict[str, list[float]]  # of later sentences: to "reset" and "other", with interval
    shares: list[float | None]  # of terms translated as before, in percent: reference, model


def found_of(folder: Path) -> Found:
    """What run.sh left in a run's folder."""
    told = files.read_json(folder / "context.json")["rows"]
    first, later = (next(row for row in told if row["places"] == name) for name in ("1", "2 on"))
    lines = (folder / "terms.txt").read_text(encoding="utf-8").splitlines()
    shares = [re.search(r": ([\d.]+) % \(", line) for line in lines]
    return Found(
        first["losses"]["carried"], later["losses"]["carried"], later["differences"],
        [float(share[1]) if share else None for share in shares],
    )  # fmt: skip


def use(runs: Iterable[Found], way: str) -> str:
    """What a control costs, and in how many seeds more or less than by chance."""
    found = [run.differences[way] for run in runs]
    mean = fmean(value for value, _, _ in found)
    above = sum(low > 0 for _, low, _ in found)
    below = sum(high < 0 for _, _, high in found)
    return f"{signed(mean, 4)} ({above} / {below})"


def cells_of(model: str, seeds: dict[int, Found], baseline: dict[int, Found]) -> list[str]:
    """A model's line of the table; ``baseline`` is empty where there is none, or it is this one."""
    runs = seeds.values()
    cells = [model, str(len(runs))]
    cells += [f"{fmean(run.first for run in runs):.4f}", f"{fmean(run.later for run in runs):.4f}"]
    if baseline:
        ours, theirs = ({seed: run.later for seed, run in of.items()} for of in (seeds, baseline))
        gain = difference(ours, theirs)
        cells.append(signed(gain.value, 4))
        if gain.low is not None and gain.high is not None:
            cells[-1] += f" ({signed(gain.low, 4)} to {signed(gain.high, 4)})"
    else:
        cells.append("–")
    cells += [use(runs, "reset"), use(runs, "other")]
    shares = [share for run in runs if (share := run.shares[1]) is not None]
    return [*cells, f"{fmean(shares):.1f} %" if shares else "–"]


def main(root: Path, out: Path) -> None:
    """Write and print the tables."""
    done = [run for run in find_runs([root]) if (run.folder / "context.json").exists()]
    done = [run for run in done if (run.folder / "terms.txt").exists()]
    if not done:
        raise UserError(f"no run in {root} has context.json and terms.txt; see run.sh --help")
    text: list[str] = []
    for group, models in by_group(done).items():
        found = {model: {seed: found_of(run.folder) for seed, run in seeds.items()}
                 for model, seeds in models.items()}  # fmt: skip
        order = sorted(found, key=lambda model: (model != BASELINE, natural(model)))
        share = next(iter(found[order[0]].values())).shares[0]
        reference = "" if share is None else f"; in the reference {share:.1f} %"
        baseline = found.get(BASELINE, {})
        text += [f"## {title_of(group)}", ""]
        text += markdown(
            HEAD,
            [
                cells_of(model, found[model], {} if model == BASELINE else baseline)
                for model in order
            ],
        )
        text += ["", BELOW.format(reference=reference), ""]
    write_text(out, "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (UserError, ValueError, OSError) as problem:
        sys.exit(f"context_table.py: {problem}")
