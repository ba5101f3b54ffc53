"""The report: Markdown, CSV and a chart."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import TYPE_CHECKING

from . import charts
from .collect import Group, Models, all_runs, label_of, natural, signature_of, title_of
from .compare import Row, Table, baseline_first
from .folder import ADDED, Run
from .metrics import in_order, metric_of
from .statistics import Difference
from .tables import cell, markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARROWS = {"higher": "↑", "lower": "↓"}  # where better is
OF_THE_MODEL = {"model", "label", "arch", "memory_tokens", "memory_recurrence", "seed", "start"}


def _formatter(metric: str) -> Callable[[float | None], str]:
    digits = metric_of(metric).digits
    return lambda value: "–" if value is None else f"{value:.{digits}f}"


def _signed(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _summary(tables: list[Table], models: Models, order: list[str]) -> list[str]:
    """A line for each model, a column for each metric."""
    head, rows = ["model", "seeds"], []
    head += [f"{table.metric} {ARROWS[table.better]}" for table in tables]
    for model in order:
        line = [label_of(models[model]), str(len(models[model]))]
        for table in tables:
            shown = _formatter(table.metric)
            row = next((row for row in table.rows if row.model == model), None)
            spread = f" ± {shown(row.deviation)}" if row and row.deviation is not None else ""
            line.append(f"{shown(row.mean)}{spread}" if row else "–")
        rows.append(line)
    return markdown(head, rows)


def _metric_table(table: Table, baseline: str) -> list[str]:
    shown = _formatter(table.metric)
    compared = any(row.against for row in table.rows)
    tested = any(row.tests for row in table.rows)
    head = ["model", "seeds", "mean", "sd", "by seed"]
    head += ["difference", "95 % interval", "interval"] if compared else []
    head += ["better / worse, p < 0.05", "p by seed"] if tested else []
    rows = []
    for row in table.rows:
        line = [row.label, str(len(row.values)), shown(row.mean), shown(row.deviation)]
        line.append(", ".join(f"{seed}: {shown(value)}" for seed, value in row.values.items()))
        if compared:
            line += _difference_cells(row, shown)
        if tested:
            line += ["", ""]
            if row.tests:
                better, worse = row.significant
                line[-2] = f"{better} / {worse} of {len(row.tests)}"
                line[-1] = ", ".join(f"{seed}: {p:.3f}" for seed, (p, _) in row.tests.items())
        rows.append(line)
    lines = ["", f"### {table.metric} ({table.better} is better)", "", *markdown(head, rows)]
    if not compared and len(table.rows) > 1:
        lines += ["", f"No finished run of `{baseline}` with {table.metric} to compare with."]
    return lines


def _difference_cells(row: Row, shown: Callable[[float | None], str]) -> list[str]:
    if row.against is None:
        return ["baseline", "", ""]
    cells = [_signed(shown(row.against.value))]
    if row.against.low is None:
        return [*cells, "–", "one seed"]
    low, high = (_signed(shown(end)) for end in (row.against.low, row.against.high))
    return [*cells, f"{low} to {high}", row.against.kind]


def _costs(runs: Iterable[Run]) -> tuple[list[tuple[int, int]], float | None, float | None]:
    """Parameters (all, trained) that occur, mean throughput and mean wall time of some runs."""
    results = [run.result for run in runs]
    parameters = {
        (result["parameters"], result.get("trained_parameters") or result["parameters"])
        for result in results
        if result.get("parameters")
    }
    means = []
    for name in ("target_tokens_per_second", "wall_seconds"):
        values = [result[name] for result in results if result.get(name) is not None]
        means.append(fmean(values) if values else None)
    return sorted(parameters), means[0], means[1]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 600 else f"{minutes // 60}:{minutes % 60:02d} h"


def _cost_table(models: Models, order: list[str]) -> list[str]:
    rows = []
    for model in order:
        parameters, speed, wall = _costs(models[model].values())
        rows.append([
            label_of(models[model]),
            " or ".join(
                f"{count:,}" + (f" (trained: {trained:,})" if trained != count else "")
                for count, trained in parameters
            )
            or "–",
            "–" if speed is None else f"{speed:,.0f}",
            _duration(wall),
        ])  # fmt: skip
    head = ["model", "parameters", "target tokens a second (training)", "wall time a run"]
    return ["", "### Cost (means over seeds)", "", *markdown(head, rows)]


def differing_settings(models: Models) -> list[str]:
    """Which settings differ between the seeds of one model, and between models, but their own."""
    notes = []
    for model, seeds in models.items():
        runs = list(seeds.values())
        for key in sorted(
            {key for run in runs for key in run.settings} - {"seed", "start", *ADDED}
        ):
            values = {run.name: repr(run.settings.get(key)) for run in runs}
            if len(set(values.values())) > 1:
                differing = ", ".join(f"{value} in {name}" for name, value in values.items())
                notes.append(f"The seeds of {model} differ in `{key}`: {differing}.")
    runs_of_all = all_runs(models)
    for key in sorted({key for run in runs_of_all for key in run.settings} - OF_THE_MODEL - ADDED):
        models_with: dict[str, set[str]] = {}  # by value
        for run in runs_of_all:
            models_with.setdefault(repr(run.settings.get(key)), set()).add(run.model)
        if len(set(map(frozenset, models_with.values()))) > 1:
            differing = "; ".join(
                f"{value}: {', '.join(sorted(names, key=natural))}"
                for value, names in models_with.items()
            )
            notes.append(f"The models differ in `{key}`, not in memory alone: {differing}.")
    for key, what in (("hardware", "on different hardware"), ("threads", "with other threads")):
        if len({str(run.result.get(key)) for run in runs_of_all}) > 1:
            notes.append(f"Runs of one table were made {what}: compare no speeds.")
    return notes


def _provenance(groups: dict[Group, Models], tables: list[Table], samples: int) -> list[str]:
    runs = [run for models in groups.values() for run in all_runs(models)]
    lines = ["", "## How it was measured", ""]
    for metric in in_order(name for run in runs for name in run.result.get("signatures", {})):
        for signature in sorted({signature_of(run, metric) for run in runs} - {""}):
            lines.append(f"- {metric}: `{signature}`")
    for signature in sorted({table.test_signature for table in tables} - {""}):
        lines.append(f"- paired bootstrap, {samples} samples: `{signature}`")
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.result.get("versions", {}).items():
            versions.setdefault(str(name), set()).add(str(version))
    if versions:
        packages = (f"{name} {' and '.join(sorted(versions[name]))}" for name in sorted(versions))
        lines.append(f"- versions: {', '.join(packages)}")
    hardware = Counter(
        f"{run.result.get('hardware', 'unknown')}, threads: {run.result.get('threads', 'unknown')}"
        for run in runs
    )
    for text, count in sorted(hardware.items()):
        lines.append(f"- hardware of {count} {'run' if count == 1 else 'runs'}: {cell(text)}")
    wall = [
        run.result["wall_seconds"] for run in runs if run.result.get("wall_seconds") is not None
    ]
    if wall:
        lines.append(f"- wall time of all {len(wall)} runs: {_duration(sum(wall))}")
    lines += ["", "### Commands", "", "Of one run of each model."]
    for group, models in groups.items():
        for model in sorted(models, key=natural):
            seed, run = min(models[model].items())
            if commands := run.result.get("commands"):
                lines += [
                    "",
                    f"{label_of(models[model])}, seed {seed} ({title_of(group)}):",
                    "",
                    "```",
                ]
                lines += [*map(str, commands), "```"]
    return lines


READING = """
Mean and standard deviation (sd, of the sample) are over seeds. The difference is to the baseline's
mean; its 95 % interval is from Student's t: of the differences seed by seed where both have the
same seeds (paired), else Welch's. It says how far training with other seeds would scatter.
"""
TEST_READING = """\
The p-values are {procedure} against the baseline of the same seed: they say how
far another test set would scatter, and nothing about seeds.
"""


def to_markdown(
    groups: dict[Group, Models],
    tables: list[Table],
    absent: list[list[str]],
    notes: list[str],
    baseline: str,
    samples: int,
) -> str:
    """The report in Markdown."""
    finished = sum(len(all_runs(models)) for models in groups.values())
    lines = ["# Report", "", f"{finished} finished {'run' if finished == 1 else 'runs'}."]
    if absent:
        lines[-1] += f" {len(absent)} not in the tables, [see below](#not-in-the-tables)."
    tests = [metric_of(table.metric).test for table in tables if table.test_signature]
    procedures = {test.procedure for test in tests if test}
    reading = READING
    if procedures:
        reading += TEST_READING.format(procedure=" or ".join(sorted(procedures, reverse=True)))
    lines += [*reading.rstrip().split("\n"), "", "![report](report.png)"]
    for group, models in groups.items():
        of_group = [table for table in tables if table.group == group]
        order = baseline_first(models, baseline)
        lines += ["", f"## {title_of(group)}", "", *_summary(of_group, models, order)]
        for table in of_group:
            lines += _metric_table(table, baseline)
        lines += _cost_table(models, order)
    if absent:
        lines += ["", "## Not in the tables", ""]
        lines += markdown(["run", "model", "seed", "why"], absent, left=4)
    if notes:
        lines += ["", "## Notes", "", *(f"- {cell(note)}" for note in dict.fromkeys(notes))]
    lines += _provenance(groups, tables, samples)
    return "\n".join(lines) + "\n"


COLUMNS = [
    "data", "size", "updates", "model", "label", "metric", "better", "seeds", "mean",
    "standard_deviation", "by_seed", "difference", "interval_low", "interval_high", "interval",
    "significance_tests", "significantly_better", "significantly_worse", "p_values", "parameters",
    "target_tokens_per_second", "wall_seconds",
]  # fmt: skip


def to_csv(groups: dict[Group, Models], tables: list[Table]) -> str:
    """The report as CSV: a line for each model and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for row in table.rows:
            parameters, speed, wall = _costs(groups[table.group][row.model].values())
            against = row.against or Difference(0.0)
            better, worse = row.significant if row.tests else ("", "")
            writer.writerow([
                *table.group, row.model, row.label, table.metric, table.better, len(row.values),
                row.mean, row.deviation, _by_seed(row.values),
                row.against and against.value, against.low, against.high, against.kind,
                len(row.tests) or "", better, worse,
                _by_seed({seed: p for seed, (p, _) in row.tests.items()}),
                " ".join(str(count) for count, _ in parameters), speed, wall,
            ])  # fmt: skip
    return text.getvalue()


def _by_seed(values: dict[int, float]) -> str:
    return " ".join(f"{seed}:{value}" for seed, value in values.items())


def to_chart(groups: Iterable[Group], tables: list[Table], baseline: str) -> "Figure":
    """The bar chart: a row for each group, a column for each main metric."""
    charted = []
    for group in groups:
        of_group = [table for table in tables if table.group == group]
        charted.append(
            [table for table in of_group if metric_of(table.metric).is_charted] or of_group[:1]
        )
    columns = max(len(row) for row in charted)
    heights = [1.5 + 0.35 * max(len(table.rows) for table in row) for row in charted]
    figure = charts.new_figure(4.8 * columns, sum(heights))
    grid = figure.subplots(
        len(charted), columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes_row, row in zip(grid, charted):
        for axes, table in zip(axes_row, row):
            bars = [
                charts.Bar(
                    line.label, list(line.values.values()), line.mean, line.deviation,
                    line.model == baseline,
                )
                for line in table.rows
            ]  # fmt: skip
            charts.draw_bars(axes, bars, table.metric, table.better)
        axes_row[0].set_title(title_of(row[0].group), loc="left")
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
    return figure
