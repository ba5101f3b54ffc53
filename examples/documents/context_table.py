"""What models of documents make of their context, over all seeds: a table. See the README.

    python context_table.py RUNS OUT

Reads what run.sh leaves beside every result below RUNS, `context.json` and `terms.txt`, and writes
a Markdown table for each group of comparable runs to OUT.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from fairseq_mem_text import files

from fairseq_mem.errors import UserError
from fairseq_mem.files import write_text
from fairseq_mem.runs.collect import Models, by_group, find_runs, natural, title_of
from fairseq_mem.runs.folder import Run
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


def rows_of(run: Run) -> dict[str, Any]:
    """What `fairseq-mem context` found, by the places in the document."""
    return {row["places"]: row for row in files.read_json(run.folder / "context.json")["rows"]}


def share_of(run: Run, line: int) -> float | None:
    """Terms translated as before, in percent: of the reference (line 0), of the model (line 1)."""
    text = (run.folder / "terms.txt").read_text(encoding="utf-8").splitlines()[line]
    found = re.search(r": ([\d.]+) % \(", text)
    return float(found[1]) if found else None


def loss(places: str) -> Callable[[Run], float]:
    """The loss of sentences at some places, with what is carried."""
    return lambda run: float(rows_of(run)[places]["losses"]["carried"])


def use(runs: list[Run], way: str) -> str:
    """What a control costs, and in how many seeds more or less than by chance."""
    found = [rows_of(run)["2 on"]["differences"][way] for run in runs]
    mean = fmean(value for value, _, _ in found)
    above = sum(low > 0 for _, low, _ in found)
    below = sum(high < 0 for _, _, high in found)
    return f"{signed(mean, 4)} ({above} / {below})"


def line(models: Models, model: str) -> list[str]:
    """A model's cells."""
    runs = list(models[model].values())
    later = {name: {seed: loss("2 on")(run) for seed, run in models[name].items()}
             for name in {model, BASELINE} & set(models)}  # fmt: skip
    cells = [model, str(len(runs)), f"{fmean(map(loss('1'), runs)):.4f}"]
    cells.append(f"{fmean(later[model].values()):.4f}")
    if model == BASELINE or BASELINE not in later:
        cells.append("–")
    else:
        gain = difference(later[model], later[BASELINE])
        cells.append(signed(gain.value, 4))
        if gain.low is not None and gain.high is not None:
            cells[-1] += f" ({signed(gain.low, 4)} to {signed(gain.high, 4)})"
    cells += [use(runs, "reset"), use(runs, "other")]
    shares = [share for run in runs if (share := share_of(run, 1)) is not None]
    return [*cells, f"{fmean(shares):.1f} %" if shares else "–"]


def main(root: Path, out: Path) -> None:
    """Write and print the tables."""
    done = [run for run in find_runs([root]) if (run.folder / "context.json").exists()]
    done = [run for run in done if (run.folder / "terms.txt").exists()]
    if not done:
        raise UserError(f"no run in {root} has context.json and terms.txt; see run.sh --help")
    text: list[str] = []
    for group, models in by_group(done).items():
        order = sorted(models, key=lambda model: (model != BASELINE, natural(model)))
        share = share_of(next(iter(models[order[0]].values())), 0)
        reference = "" if share is None else f"; in the reference {share:.1f} %"
        text += [f"## {title_of(group)}", ""]
        text += markdown(HEAD, [line(models, model) for model in order])
        text += ["", BELOW.format(reference=reference), ""]
    write_text(out, "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (UserError, ValueError, OSError) as problem:
        sys.exit(f"context_table.py: {problem}")
