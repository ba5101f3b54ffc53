"""`fairseq-mem report`: finished runs, side by side.

What the folder of a run holds is documented in ``fairseq_mem/runs/folder.py``.
"""

import argparse
from pathlib import Path
from typing import Any

from fairseq_mem_text.arguments import positive

from ..errors import UserError
from ..files import write_text
from ..runs import charts
from ..runs.collect import all_runs, by_group, find_runs, natural, runs_not_compared
from ..runs.compare import Table, compare
from ..runs.render import differing_settings, to_chart, to_csv, to_markdown


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser = subparsers.add_parser(
        "report",
        help="compare finished runs: table, CSV and bar chart",
        description="Collect the runs below some folders into report.md, report.csv and "
        "report.png: mean and standard deviation over seeds, difference to the baseline, paired "
        "bootstrap significance, cost. Runs that are missing, failed or unfinished are named and "
        "never averaged.",
        epilog="For example: fairseq-mem report runs --baseline baseline --out report",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="folders with runs, at any depth"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument(
        "--baseline", metavar="MODEL",
        help="the model that the others are compared with (default: baseline)",
    )  # fmt: skip
    parser.add_argument(
        "--n-samples", type=positive, default=1000, metavar="N",
        help="bootstrap samples for the significance (default: 1000, as sacreBLEU)",
    )  # fmt: skip
    for name, kind in (("models", str), ("seeds", int)):
        parser.add_argument(
            f"--expect-{name}", nargs="+", type=kind, default=[], metavar=name[:-1].upper(),
            help=f"name what is missing of these {name}, even where no run of them was begun",
        )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    baseline = args.baseline or "baseline"
    runs = find_runs(args.runs)
    groups = by_group(runs)
    absent = runs_not_compared(runs, args.expect_models, args.expect_seeds)
    if not groups:
        raise UserError(f"none of {len(runs)} runs is finished; {runs[0].name}: {runs[0].reason}")
    if args.baseline and not any(baseline in models for models in groups.values()):
        finished = sorted({run.model for run in runs if not run.reason}, key=natural)
        raise UserError(
            f"no finished run of the baseline {baseline}; finished are: {', '.join(finished)}"
        )
    notes: list[str] = []
    tables: list[Table] = []
    for group, models in groups.items():
        notes += differing_settings(models)
        tables += compare(group, models, baseline, args.n_samples, notes)
    chart = to_chart(groups, tables, baseline)
    text = to_markdown(groups, tables, absent, notes, baseline, args.n_samples)
    charts.save(chart, args.out / "report.png")
    write_text(args.out / "report.csv", to_csv(groups, tables))
    write_text(args.out / "report.md", text)
    count = sum(len(all_runs(models)) for models in groups.values())
    print(f"{args.out / 'report.md'}: {count} finished runs")
    for name, model, seed, why in absent:
        print(f"  not in the tables: {name} ({model}, seed {seed}): {why}")
