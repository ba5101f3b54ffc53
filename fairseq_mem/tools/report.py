"""`fairseq-mem report`: finished runs, side by side.

A run is a folder that its run script fills: `settings.json` at the start (`"format": 1`, `model`,
`label`, `size`, `seed`, `data`, `updates`, and whatever else was set), `failed.txt` if the last
attempt failed (a line that says why), and at the end `result.json`: the settings again, `metrics`
(for each a `value` and which is `better`, `higher` or `lower`), sacreBLEU's `signatures`,
`parameters`, `target_tokens_per_second`, `wall_seconds`, `versions`, `hardware`, `threads`,
`commands`. Beside it, of a translation: `hypotheses.txt`, and `reference.txt` there, one folder
up, or where `reference` in `result.json` says.
"""

import argparse
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..errors import UserError
from . import charts
from .comparison import Difference, difference, paired_bootstrap
from .files import is_number, read_json, write_text
from .lines import read_lines
from .tables import cell, markdown

FORMAT = 1
TEXTS, NUMBERS = ("model", "size", "data"), ("seed", "updates")
METRICS = ("BLEU", "chrF", "perplexity", "test loss", "valid loss")  # in this order; others after
CHARTED = ("BLEU", "perplexity", "test loss", "valid loss")
TESTED = ("BLEU", "chrF")
ARROWS = {"higher": "↑", "lower": "↓"}  # where better is
RESULTS = {  # what result.json has beside the settings
    "metrics", "signatures", "parameters", "trained_parameters", "target_tokens_per_second",
    "wall_seconds", "versions", "hardware", "threads", "commands", "reference",
}  # fmt: skip
# what tells data of one name apart; the second is new, runs of earlier versions lack it
DIGESTS = ("data_sha256", "dictionary_sha256")
OF_THE_MODEL = {"model", "label", "arch", "memory_tokens", "memory_recurrence", "seed", "start"}
ROUNDING = 0.06  # a score that was written down with one digit behind the point

Group = tuple[str, str, int]  # data, size, updates: what may be compared


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
        "--n-samples", type=int, default=1000, metavar="N",
        help="bootstrap samples for the significance (default: 1000, as sacreBLEU)",
    )  # fmt: skip
    for name, kind in (("models", str), ("seeds", int)):
        parser.add_argument(
            f"--expect-{name}", nargs="+", type=kind, default=[], metavar=name[:-1].upper(),
            help=f"name what is missing of these {name}, even where no run of them was begun",
        )  # fmt: skip
    return parser


# ---------------------------------------------------------------- collecting


@dataclass
class Run:
    """One run's folder."""

    folder: Path
    name: str  # its path below the folder that was given, the same from anywhere
    settings: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  # why it is not in the tables

    @property
    def group(self) -> Group:
        """What it may be compared with."""
        return self.settings["data"], self.settings["size"], self.settings["updates"]

    @property
    def model(self) -> str:
        """Which model, by its short name."""
        return self.settings["model"]

    @property
    def seed(self) -> int:
        """The seed."""
        return self.settings["seed"]


def find_runs(roots: Iterable[Path]) -> list[Run]:
    """The runs below some folders, each once, in the order of their names.

    Raises:
        UserError: a folder is missing, or there is no run in any.
    """
    found: dict[Path, Run] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}; give the folder with the runs")
        base = root.resolve()
        for folder, _, files in os.walk(base):
            if "settings.json" in files or "result.json" in files:
                path = Path(folder)
                name = str(base.name / path.relative_to(base))
                found.setdefault(path, read_run(path, name))
    if not found:
        raise UserError(
            f"no run in {', '.join(map(str, roots))}: no folder there has a settings.json"
        )
    return sorted(found.values(), key=lambda run: natural(run.name))


def natural(text: str) -> tuple[Any, ...]:
    """A sort key by which mem-5 comes before mem-10."""
    return tuple(
        (0, len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    )


def read_run(folder: Path, name: str) -> Run:
    """Read what a run's folder holds; what is wrong with it becomes its ``reason``."""
    run = Run(folder, name)
    try:
        settings, result = folder / "settings.json", folder / "result.json"
        run.settings = _read_json(settings if settings.exists() else result)
        if not settings.exists():
            run.settings = {key: value for key, value in run.settings.items() if key not in RESULTS}
        _check_settings(run.settings)
        if (failed := folder / "failed.txt").exists():
            why = "no regular file failed.txt"  # a pipe would be waited for
            if failed.is_file():
                why = " ".join(failed.read_text("utf-8", "replace").split())
            run.reason = f"failed: {why or 'no reason in failed.txt'}"
        elif not result.exists():
            run.reason = "unfinished: no result.json yet"
        else:
            run.result = _read_json(result)
            _check_result(run.result, run.settings)
    except (ValueError, OSError) as error:
        run.result, run.reason = {}, " ".join(str(error).split())
    return run


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if content.get("format") != FORMAT:
        raise ValueError(f"{path.name} is not of format {FORMAT}")
    return content


def _check_settings(settings: dict[str, Any]) -> None:
    for key in (*TEXTS, *NUMBERS):
        kind = str if key in TEXTS else int
        value = settings.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            settings.clear()  # nothing can be told from them
            raise ValueError(f"settings without a proper {key}: {value!r}")


def _check_result(result: dict[str, Any], settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if result.get(key) != value:
            raise ValueError(
                f"result.json is of other settings: {key} is {result.get(key)!r}, "
                f"settings.json has {value!r}"
            )
    metrics = result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ValueError("result.json has no metrics")
    for name, metric in metrics.items():
        if not isinstance(metric, dict) or not is_number(metric.get("value")):
            raise ValueError(f"result.json has no finite {name}: {metric!r}")
        if metric.get("better") not in ("higher", "lower"):
            raise ValueError(f"result.json does not say which {name} is better")
    for name in ("parameters", "target_tokens_per_second", "wall_seconds"):
        if result.get(name) is not None and not is_number(result[name]):
            raise ValueError(f"result.json has {name} {result[name]!r}")
    for name, expected in (("signatures", dict), ("versions", dict), ("commands", list)):
        if not isinstance(result.get(name, expected()), expected):
            raise ValueError(f"result.json has {name} {result[name]!r}")


def absentees(
    runs: list[Run], models: Iterable[str] = (), seeds: Iterable[int] = ()
) -> list[list[str]]:
    """Rows (run, model, seed, why) for what is not in the tables.

    Missing is, in each group, a model's run of a seed that another model has, and what there is no
    run of among the ``models`` and ``seeds`` that are expected.
    """
    rows = []
    for run in runs:
        if run.reason:
            told = [str(run.settings.get(key, "?")) for key in ("model", "seed")]
            rows.append([run.name, *told, run.reason])
    known = [run for run in runs if run.settings]
    for group in sorted({run.group for run in known}, key=_group_order):
        here = [run for run in known if run.group == group]
        for model in sorted({run.model for run in here} | set(models), key=natural):
            had = {run.seed for run in here if run.model == model}
            for seed in sorted(({run.seed for run in here} | set(seeds)) - had):
                others = sorted({run.model for run in here if run.seed == seed}, key=natural)
                why = f"missing: no run of {_title(group)}"
                why += f"; there is one of {', '.join(others)}" if others else ""
                rows.append(["–", model, str(seed), why])
    return rows


def by_group(runs: list[Run]) -> dict[Group, dict[str, dict[int, Run]]]:
    """The finished runs: by group, model and seed.

    Raises:
        UserError: two are of one model and seed, or of different data under one name, or a metric
            means two things in one group.
    """
    groups: dict[Group, dict[str, dict[int, Run]]] = {}
    for run in runs:
        if run.reason:
            continue
        seeds = groups.setdefault(run.group, {}).setdefault(run.model, {})
        if run.seed in seeds:
            raise UserError(
                f"{seeds[run.seed].name} and {run.name} are both {run.model} with seed {run.seed} "
                f"({_title(run.group)}); leave one out"
            )
        seeds[run.seed] = run
    for models in groups.values():
        first: dict[str, Run] = {}
        telling: dict[str, Run] = {}  # the first run that says which data it was made with
        for run in _all(models):
            for key in DIGESTS:
                if digest := run.settings.get(key):
                    text = telling.setdefault(key, run)
                    if digest != text.settings[key]:
                        raise UserError(
                            f"{text.name} and {run.name} were trained on different data of the "
                            f"name {run.settings['data']!r} ({key}); give data names of their "
                            "own, or leave one out"
                        )
            for name, metric in run.result["metrics"].items():
                other = first.setdefault(name, run)
                signatures = [_signature(some, name) for some in (other, run)]
                bare = [re.sub(r"\|?version:[^|]*", "", text) for text in signatures]
                better = other.result["metrics"][name]["better"]
                if bare[0] != bare[1] or metric["better"] != better:
                    raise UserError(
                        f"{name} of {other.name} ({signatures[0] or 'no signature'}, {better}) and "
                        f"of {run.name} ({signatures[1] or 'no signature'}, {metric['better']} is "
                        "better) cannot be compared; score them in one way"
                    )
    return dict(sorted(groups.items(), key=lambda item: _group_order(item[0])))


def _all(models: dict[str, dict[int, Run]]) -> list[Run]:
    return [run for seeds in models.values() for run in seeds.values()]


def _signature(run: Run, metric: str) -> str:
    return str(run.result.get("signatures", {}).get(metric, ""))


def _group_order(group: Group) -> tuple[Any, ...]:
    return natural(group[0]), natural(group[1]), group[2]


def _title(group: Group) -> str:
    data, size, updates = group
    return f"{data}, {size}, {updates:,} updates"


# ---------------------------------------------------------------- comparing


@dataclass
class Row:
    """One model in one metric."""

    model: str
    label: str
    values: dict[int, float]  # by seed
    against: Difference | None = None  # None: the baseline, or there is none
    tests: dict[int, tuple[float, int]] = field(default_factory=dict)  # p; 1 better, -1 worse

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; of one seed there is none."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass
class Table:
    """One metric of one group."""

    group: Group
    metric: str
    better: str
    rows: list[Row]
    test_signature: str = ""


def metric_order(names: Iterable[str]) -> list[str]:
    """BLEU first, losses late, what we don't know in the order of the alphabet."""
    return sorted(
        set(names), key=lambda name: (METRICS.index(name) if name in METRICS else 99, name)
    )


def compare(
    group: Group,
    models: dict[str, dict[int, Run]],
    baseline: str,
    samples: int,
    notes: list[str],
) -> list[Table]:
    """Build a group's tables; what is worth knowing about them goes to ``notes``."""
    order = sorted(models, key=lambda model: (model != baseline, natural(model)))
    texts = _Texts(notes)
    tables = []
    for metric in metric_order(name for run in _all(models) for name in run.result["metrics"]):
        rows, better = [], ""
        for model in order:
            having = {
                seed: run
                for seed, run in sorted(models[model].items())
                if metric in run.result["metrics"]
            }
            for seed in sorted(models[model].keys() - having.keys()):
                notes.append(f"{models[model][seed].name} has no {metric}.")
            if not having:
                continue
            first = next(iter(having.values()))
            better = first.result["metrics"][metric]["better"]
            values = {seed: run.result["metrics"][metric]["value"] for seed, run in having.items()}
            rows.append(Row(model, _label(models[model]), values))
        table = Table(group, metric, better, rows)
        if rows[0].model == baseline:
            for row in rows[1:]:
                row.against = difference(row.values, rows[0].values)
            if metric in TESTED:
                _test(table, models, texts, samples, notes)
        tables.append(table)
    return tables


def _label(seeds: dict[int, Run]) -> str:
    run = seeds[min(seeds)]
    return str(run.settings.get("label") or run.model)


class _Texts:
    """Translations and references of runs, each read once."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.read: dict[Path, tuple[list[str], list[str]] | None] = {}

    def of(self, run: Run) -> tuple[list[str], list[str]] | None:
        """The translations and the references; None, with a note, if they can't be had."""
        if run.folder not in self.read:
            try:
                self.read[run.folder] = self._load(run)
            except (OSError, ValueError) as error:
                cause = f"{error.strerror}" if isinstance(error, OSError) else str(error)
                self.notes.append(f"{run.name} is left out of the significance test: {cause}.")
                self.read[run.folder] = None
        return self.read[run.folder]

    def _load(self, run: Run) -> tuple[list[str], list[str]]:
        named = run.result.get("reference")
        places = [run.folder / "reference.txt", run.folder.parent / "reference.txt"]
        if named is not None:
            places = [run.folder / str(named)]
        reference = next((place for place in places if place.is_file()), None)
        if reference is None:
            raise ValueError(f"no {named or 'reference.txt'}")
        if not (run.folder / "hypotheses.txt").is_file():
            raise ValueError("no hypotheses.txt")
        lines = read_lines(run.folder / "hypotheses.txt"), read_lines(reference)
        if len(lines[0]) != len(lines[1]) or not lines[0]:
            raise ValueError(f"{len(lines[0])} hypotheses for {len(lines[1])} references")
        return lines


def _test(
    table: Table,
    models: dict[str, dict[int, Run]],
    texts: _Texts,
    samples: int,
    notes: list[str],
) -> None:
    """Put the paired bootstrap of every seed into the table's rows."""
    metric, baseline = table.metric, table.rows[0].model
    for seed in table.rows[0].values:
        first = models[baseline][seed]
        rows = [row for row in table.rows[1:] if seed in row.values]
        if not rows or (of_first := texts.of(first)) is None:
            continue
        systems, tested = [(baseline, of_first[0])], [table.rows[0]]
        for row in rows:
            run = models[row.model][seed]
            if (found := texts.of(run)) is None:
                continue
            if found[1] != of_first[1]:
                notes.append(
                    f"{run.name} is left out of the significance test: its reference is not that "
                    f"of {first.name}."
                )
                continue
            systems.append((row.model, found[0]))
            tested.append(row)
        if len(systems) == 1:
            continue
        try:
            table.test_signature, scores = paired_bootstrap(
                systems, of_first[1], metric, _signature(first, metric), samples
            )
        except ValueError as error:
            notes.append(f"No significance test of {metric}: {error}.")
            return
        wrong = []
        for row, (score, _) in zip(tested, scores):
            if abs(score - row.values[seed]) > ROUNDING:
                wrong.append(row)
                notes.append(
                    f"{models[row.model][seed].name} is left out of the significance test: its "
                    f"hypotheses.txt has {metric} {score:.2f}, its result.json {row.values[seed]}."
                )
        if table.rows[0] in wrong:
            continue
        for row, (score, p) in list(zip(tested, scores))[1:]:
            if row not in wrong and p is not None:
                row.tests[seed] = p, (score > scores[0][0]) - (score < scores[0][0])


# ---------------------------------------------------------------- telling


def _digits(metric: str) -> Callable[[float | None], str]:
    digits = 2 if metric in ("BLEU", "chrF", "perplexity") else 3
    return lambda value: "–" if value is None else f"{value:.{digits}f}"


def _signed(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _summary(tables: list[Table], models: dict[str, dict[int, Run]], order: list[str]) -> list[str]:
    """A line for each model, a column for each metric."""
    head, rows = ["model", "seeds"], []
    head += [f"{table.metric} {ARROWS[table.better]}" for table in tables]
    for model in order:
        line = [_label(models[model]), str(len(models[model]))]
        for table in tables:
            shown = _digits(table.metric)
            row = next((row for row in table.rows if row.model == model), None)
            spread = f" ± {shown(row.deviation)}" if row and row.deviation is not None else ""
            line.append(f"{shown(row.mean)}{spread}" if row else "–")
        rows.append(line)
    return markdown(head, rows)


def _metric_table(table: Table, baseline: str) -> list[str]:
    shown = _digits(table.metric)
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
                better, worse = _significant(row)
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


def _significant(row: Row) -> tuple[int, int]:
    """How many seeds are better and worse with p < 0.05."""
    signs = [sign for p, sign in row.tests.values() if p < 0.05]
    return signs.count(1), signs.count(-1)


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


def _cost_table(models: dict[str, dict[int, Run]], order: list[str]) -> list[str]:
    rows = []
    for model in order:
        parameters, speed, wall = _costs(models[model].values())
        rows.append([
            _label(models[model]),
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


def _settings_notes(models: dict[str, dict[int, Run]]) -> list[str]:
    """Which settings differ between the seeds of one model, and between models, but their own."""
    notes = []
    for model, seeds in models.items():
        runs = list(seeds.values())
        for key in sorted(
            {key for run in runs for key in run.settings} - {"seed", "start", DIGESTS[1]}
        ):
            values = {run.name: repr(run.settings.get(key)) for run in runs}
            if len(set(values.values())) > 1:
                told = ", ".join(f"{value} in {name}" for name, value in values.items())
                notes.append(f"The seeds of {model} differ in `{key}`: {told}.")
    everything = _all(models)
    for key in sorted(
        {key for run in everything for key in run.settings} - {*OF_THE_MODEL, DIGESTS[1]}
    ):
        of: dict[str, set[str]] = {}
        for run in everything:
            of.setdefault(repr(run.settings.get(key)), set()).add(run.model)
        if len(set(map(frozenset, of.values()))) > 1:
            told = "; ".join(
                f"{value}: {', '.join(sorted(of[value], key=natural))}" for value in of
            )
            notes.append(f"The models differ in `{key}`, not in memory alone: {told}.")
    for key, what in (("hardware", "on different hardware"), ("threads", "with other threads")):
        if len({str(run.result.get(key)) for run in everything}) > 1:
            notes.append(f"Runs of one table were made {what}: compare no speeds.")
    return notes


def _provenance(
    groups: dict[Group, dict[str, dict[int, Run]]], tables: list[Table], samples: int
) -> list[str]:
    runs = [run for models in groups.values() for run in _all(models)]
    lines = ["", "## How it was measured", ""]
    for metric in metric_order(name for run in runs for name in run.result.get("signatures", {})):
        for signature in sorted({_signature(run, metric) for run in runs} - {""}):
            lines.append(f"- {metric}: `{signature}`")
    for signature in sorted({table.test_signature for table in tables} - {""}):
        lines.append(f"- paired bootstrap, {samples} samples: `{signature}`")
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.result.get("versions", {}).items():
            versions.setdefault(str(name), set()).add(str(version))
    if versions:
        told = (f"{name} {' and '.join(sorted(versions[name]))}" for name in sorted(versions))
        lines.append(f"- versions: {', '.join(told)}")
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
                lines += ["", f"{_label(models[model])}, seed {seed} ({_title(group)}):", "", "```"]
                lines += [*map(str, commands), "```"]
    return lines


READING = """
Mean and standard deviation (sd, of the sample) are over seeds. The difference is to the baseline's
mean; its 95 % interval is from Student's t: of the differences seed by seed where both have the
same seeds (paired), else Welch's. It says how far training with other seeds would scatter.
"""
TEST_READING = """\
The p-values are sacreBLEU's paired bootstrap against the baseline of the same seed: they say how
far another test set would scatter, and nothing about seeds.
"""


def tell(
    groups: dict[Group, dict[str, dict[int, Run]]],
    tables: list[Table],
    absent: list[list[str]],
    notes: list[str],
    baseline: str,
    samples: int,
) -> str:
    """The report in Markdown."""
    finished = sum(len(_all(models)) for models in groups.values())
    lines = ["# Report", "", f"{finished} finished {'run' if finished == 1 else 'runs'}."]
    if absent:
        lines[-1] += f" {len(absent)} not in the tables, [see below](#not-in-the-tables)."
    reading = READING + (TEST_READING if any(table.test_signature for table in tables) else "")
    lines += [*reading.rstrip().split("\n"), "", "![report](report.png)"]
    for group, models in groups.items():
        here = [table for table in tables if table.group == group]
        order = sorted(models, key=lambda model: (model != baseline, natural(model)))
        lines += ["", f"## {_title(group)}", "", *_summary(here, models, order)]
        for table in here:
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


def comma_separated(groups: dict[Group, dict[str, dict[int, Run]]], tables: list[Table]) -> str:
    """The report as CSV: a line for each model and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for row in table.rows:
            parameters, speed, wall = _costs(groups[table.group][row.model].values())
            against = row.against or Difference(0.0)
            better, worse = _significant(row) if row.tests else ("", "")
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


def draw(groups: Iterable[Group], tables: list[Table], baseline: str) -> Any:
    """The bar chart: a row for each group, a column for each main metric."""
    charted = []
    for group in groups:
        here = [table for table in tables if table.group == group]
        charted.append([table for table in here if table.metric in CHARTED] or here[:1])
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
        axes_row[0].set_title(_title(row[0].group), loc="left")
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
    return figure


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.n_samples < 1:
        raise UserError(f"--n-samples is {args.n_samples}; give a whole number above 0")
    baseline = args.baseline or "baseline"
    runs = find_runs(args.runs)
    groups = by_group(runs)
    absent = absentees(runs, args.expect_models, args.expect_seeds)
    if not groups:
        raise UserError(f"none of {len(runs)} runs is finished; {runs[0].name}: {runs[0].reason}")
    if args.baseline and not any(baseline in models for models in groups.values()):
        models = sorted({run.model for run in runs if not run.reason}, key=natural)
        raise UserError(
            f"no finished run of the baseline {baseline}; finished are: {', '.join(models)}"
        )
    notes: list[str] = []
    tables: list[Table] = []
    for group, models_here in groups.items():
        notes += _settings_notes(models_here)
        tables += compare(group, models_here, baseline, args.n_samples, notes)
    figure = draw(groups, tables, baseline)
    told = tell(groups, tables, absent, notes, baseline, args.n_samples)
    charts.save(figure, args.out / "report.png")
    write_text(args.out / "report.csv", comma_separated(groups, tables))
    write_text(args.out / "report.md", told)
    print(f"{args.out / 'report.md'}: {sum(map(len, map(_all, groups.values())))} finished runs")
    for name, model, seed, why in absent:
        print(f"  not in the tables: {name} ({model}, seed {seed}): {why}")
