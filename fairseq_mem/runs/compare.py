"""The models of a group side by side: means over seeds, differences to the baseline, tests."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from .collect import Group, Models, all_runs, label_of, natural, signature_of
from .folder import Run
from .metrics import Outputs, SignificanceTest, in_order, metric_of
from .statistics import Difference, difference

ROUNDING = 0.06  # of a score that was written down with one digit behind the point


@dataclass
class Row:
    """What one model reached in one metric, with every seed."""

    model: str
    label: str
    values: dict[int, float]  # by seed
    against: Difference | None = None  # None: the baseline, or there is none
    tests: dict[int, tuple[float, int]] = field(default_factory=dict)  # p; 1 better, -1 worse

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; of one seed there is none."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def significant(self) -> tuple[int, int]:
        """How many seeds are better and worse with p < 0.05."""
        signs = [sign for p, sign in self.tests.values() if p < 0.05]
        return signs.count(1), signs.count(-1)


@dataclass
class Table:
    """All models of a group in one metric, the baseline first."""

    group: Group
    metric: str
    better: str
    rows: list[Row]  # the baseline first, if it has this metric
    test_signature: str = ""


def compare(
    group: Group, models: Models, baseline: str, samples: int, notes: list[str]
) -> list[Table]:
    """Build a group's tables; what is worth knowing about them goes to ``notes``."""
    outputs: dict[str, _OutputsOfRuns] = {}  # by the file that they are read from
    tables = []
    for metric in in_order(name for run in all_runs(models) for name in run.result["metrics"]):
        table = Table(group, metric, "", [])
        for model in baseline_first(models, baseline):
            runs = dict(sorted(models[model].items()))
            for run in runs.values():
                if metric not in run.result["metrics"]:
                    notes.append(f"{run.name} has no {metric}.")
            scores = {
                seed: run.result["metrics"][metric]
                for seed, run in runs.items()
                if metric in run.result["metrics"]
            }
            if scores:
                values = {seed: score["value"] for seed, score in scores.items()}
                table.rows.append(Row(model, label_of(runs), values))
                table.better = next(iter(scores.values()))["better"]
        if table.rows[0].model == baseline:
            for row in table.rows[1:]:
                row.against = difference(row.values, table.rows[0].values)
            if test := metric_of(metric).test:
                read = outputs.setdefault(test.file, _OutputsOfRuns(test, notes))
                _test_rows(table, models, read, samples, notes)
        tables.append(table)
    return tables


def baseline_first(models: Models, baseline: str) -> list[str]:
    """The models' names in the order of the tables' rows."""
    return sorted(models, key=lambda model: (model != baseline, natural(model)))


class _OutputsOfRuns:
    """The outputs of runs on the test set, each read once."""

    def __init__(self, test: SignificanceTest, notes: list[str]) -> None:
        self.test = test
        self.notes = notes
        self.read: dict[Path, Outputs | None] = {}

    def of(self, run: Run) -> Outputs | None:
        """Outputs and references of a run; None, with a note, if they can't be had."""
        if run.folder not in self.read:
            try:
                self.read[run.folder] = self.test.read(run)
            except (OSError, ValueError) as error:
                cause = f"{error.strerror}" if isinstance(error, OSError) else str(error)
                self.notes.append(f"{run.name} is left out of the significance test: {cause}.")
                self.read[run.folder] = None
        return self.read[run.folder]


def _test_rows(
    table: Table, models: Models, outputs: _OutputsOfRuns, samples: int, notes: list[str]
) -> None:
    """Put the paired bootstrap of every seed into the table's rows."""
    metric, of_baseline = table.metric, table.rows[0]
    for seed in of_baseline.values:
        first = models[of_baseline.model][seed]
        rows = [row for row in table.rows[1:] if seed in row.values]
        if not rows or (of_first := outputs.of(first)) is None:
            continue
        systems, tested = [(of_baseline.model, of_first[0])], [of_baseline]
        for row in rows:
            run = models[row.model][seed]
            if (of_run := outputs.of(run)) is None:
                continue
            if of_run[1] != of_first[1]:
                notes.append(
                    f"{run.name} is left out of the significance test: its reference is not that "
                    f"of {first.name}."
                )
                continue
            systems.append((row.model, of_run[0]))
            tested.append(row)
        if len(systems) == 1:
            continue
        try:
            table.test_signature, scores = outputs.test.bootstrap(
                systems, of_first[1], metric, signature_of(first, metric), samples
            )
        except ValueError as error:
            notes.append(f"No significance test of {metric}: {error}.")
            return
        of_other_outputs = []
        for row, (score, _) in zip(tested, scores):
            if abs(score - row.values[seed]) > ROUNDING:
                of_other_outputs.append(row)
                notes.append(
                    f"{models[row.model][seed].name} is left out of the significance test: its "
                    f"{outputs.test.file} has {metric} {score:.2f}, its result.json "
                    f"{row.values[seed]}."
                )
        if of_baseline in of_other_outputs:
            continue
        for row, (score, p) in list(zip(tested, scores))[1:]:
            if row not in of_other_outputs and p is not None:
                row.tests[seed] = p, (score > scores[0][0]) - (score < scores[0][0])
