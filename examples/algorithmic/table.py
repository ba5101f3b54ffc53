"""The study of tasks whose answer is known: many cells side by side, a table and a chart.

usage: table.py [--tasks TASK ...] [--models MODEL ...] [--seeds N ...] [--jobs N]

Stop it at any point and run it again: it continues. A cell is a few minutes on one core.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from cell import SEGMENTS, TRANSLATION
from tasks import FIXED, TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mem.errors import UserError
from fairseq_mem.files import write_text
from fairseq_mem.runs import charts
from fairseq_mem.runs.jobs import Job, run_jobs
from fairseq_mem.runs.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
STUDIED = [name for name in TASKS if name not in FIXED]
Found = dict[tuple[str, str], list[dict]]  # the results of a task and a model


def cells(tasks: list[str], models: list[str] | None, seeds: list[int]) -> list[tuple]:
    """Task, model and seed; models that a task does not have are left out."""
    made = []
    for task in tasks:
        known = SEGMENTS if TASKS[task].segments else TRANSLATION
        wanted = [model for model in known if models is None or model in models]
        made += [(task, model, seed) for model in wanted for seed in seeds]
    return made


def told(scores: list[dict], measure: str) -> str:
    """A mean, in per cent but for bits, and its spread; nothing of what was not measured."""
    unit, digits = (1, 2) if measure == "bits" else (100, 1)
    values = [unit * score[measure] for score in scores if measure in score]
    if not values:
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def report(found: Found, updates: int) -> str:
    """The table: of every task and model the lines that are right."""
    rows = []
    for (task, model), results in found.items():
        row = [task, model, ", ".join(str(one["seed"]) for one in results)]
        for split in ("test", "long"):
            scores = [one["scores"][split] for one in results if split in one["scores"]]
            row += [told(scores, measure) for measure in ("lines", "words", "bits")]
        rows.append(row)
    head = ["task", "model", "seeds", "lines right, %", "words right, %", "bits a word",
            "long: lines, %", "long: words, %", "long: bits a word"]  # fmt: skip
    versions = sorted({one["versions"] for results in found.values() for one in results})
    return "\n".join([
        "# Tasks whose answer is known", "",
        f"{updates:,} updates each; means and sample standard deviations over seeds. long: "
        "sources longer than any in training. bits a word: the loss of the answer's words, read in "
        "segments.", "", "![table](table.png)", "",
        *markdown(head, rows, left=3), "", *(f"- versions: {text}" for text in versions),
    ]) + "\n"  # fmt: skip


def draw(found: Found) -> "Figure":
    """A panel for each task, both tests: words that are right; bits a word of segments."""
    tasks = list(dict.fromkeys(task for task, _ in found))
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure = charts.new_figure(4.2 * across, 3.0 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(grid.flat, tasks):
        models = [model for name, model in found if name == task]
        measure, unit = ("bits", 1) if TASKS[task].segments else ("words", 100)
        for shift, split, color in ((-0.2, "test", charts.BLUE), (0.2, "long", charts.GREY)):
            for place, model in enumerate(models):
                values = [unit * one["scores"][split][measure] for one in found[task, model]
                          if split in one["scores"]]  # fmt: skip
                if values:
                    axes.barh(place + shift, fmean(values), 0.38, color=color,
                              label=split if place == 0 else None)  # fmt: skip
                    axes.plot(values, [place + shift] * len(values), "o", color=charts.BLACK,
                              markersize=3, markerfacecolor="white")  # fmt: skip
        axes.set_yticks(range(len(models)), models, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, None if measure == "bits" else 100)
        axes.set_xlabel("bits a word" if measure == "bits" else "words right, %", fontsize=8)
        axes.set_title(task, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    grid.flat[0].legend(fontsize=8)
    return figure


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Train and test small models on tasks whose answer is known; a table and a "
        "chart. Stop it at any point and run it again: it continues."
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=STUDIED, metavar="TASK",
                        help=f"default: {', '.join(STUDIED)}")  # fmt: skip
    parser.add_argument("--models", nargs="+", metavar="MODEL",
                        help=f"default: all, {', '.join(TRANSLATION)}; segment-wise: "
                        f"{', '.join(SEGMENTS)}")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--updates", type=int, default=1500, metavar="N", help="default: 1500")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time")
    parser.add_argument("--work", type=Path, default=HERE / "work", metavar="FOLDER")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)  # fairseq leaves it at DEBUG, for every library
    unknown = set(args.models or ()) - {*TRANSLATION, *SEGMENTS}
    if unknown:
        raise UserError(f"there is no model {', '.join(sorted(unknown))}; see --help")
    wanted = cells(args.tasks, args.models, args.seeds)

    def result(task: str, model: str, seed: int) -> Path:
        return args.work / task / f"{model}-{args.updates}-{seed}" / "result.json"

    jobs = [
        Job(f"{task}, {model}, seed {seed}",
            [sys.executable, str(HERE / "cell.py"), task, model, str(seed), "--work",
             str(args.work), "--updates", str(args.updates)], {})
        for task, model, seed in wanted
        if not result(task, model, seed).exists()
    ]  # fmt: skip
    print(f"{len(wanted)} cells, {len(wanted) - len(jobs)} of them done before")
    failed = run_jobs(jobs, max(1, args.jobs), gpus=0) if jobs else []
    found: Found = {}
    for task, model, seed in wanted:
        if (path := result(task, model, seed)).exists():
            one = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault((task, model), []).append(one)
    if found:
        charts.save(draw(found), args.work / "table.png")
        write_text(args.work / "table.md", report(found, args.updates))
        print(args.work / "table.md")
    if failed:
        raise UserError(f"{len(failed)} cells failed: {'; '.join(failed)}; run it again")


if __name__ == "__main__":
    main()
