"""The metrics that are known: how they are printed, which are drawn, how they are tested.

A metric that a result names and that is not here is printed behind these, with three digits.
Scores of sentences and of classes are in percent, as in the tables of papers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .folder import Run
from .statistics import Tested, bootstrap_predictions, bootstrap_translations

Outputs = tuple[list[str], list[str]]  # a run's outputs on the test set, and what they should be


@dataclass(frozen=True)
class SignificanceTest:
    """A paired bootstrap over the lines of the test set."""

    file: str  # where a run's outputs are
    read: Callable[[Run], Outputs]  # raises ValueError or OSError, with the reason
    bootstrap: Callable[
        [Sequence[tuple[str, Sequence[str]]], Sequence[str], str, str, int], Tested
    ]  # of named outputs (the first is the baseline), references, metric, signature, samples
    procedure: str  # whose it is, for the reader


@dataclass(frozen=True)
class Metric:
    """How a metric is called, printed, charted and tested."""

    name: str
    better: Literal["higher", "lower"] | None = None  # None: as the result says
    digits: int = 3
    is_charted: bool = False
    test: SignificanceTest | None = None  # None: only intervals over seeds


def read_translations(run: Run) -> Outputs:
    """The lines of ``hypotheses.txt`` and of the reference.

    Raises:
        ValueError: one is missing, or they are not equally long.
        OSError: one cannot be read.
    """
    named = run.result.get("reference")
    places = [run.folder / "reference.txt", run.folder.parent / "reference.txt"]
    if named is not None:
        places = [run.folder / str(named)]
    reference = next((place for place in places if place.is_file()), None)
    if reference is None:
        raise ValueError(f"no {named or 'reference.txt'}")
    if not (run.folder / "hypotheses.txt").is_file():
        raise ValueError("no hypotheses.txt")
    lines = _lines(run.folder / "hypotheses.txt"), _lines(reference)
    if len(lines[0]) != len(lines[1]) or not lines[0]:
        raise ValueError(f"{len(lines[0])} hypotheses for {len(lines[1])} references")
    return lines


def _lines(path: Path) -> list[str]:
    r"""Only ``\n`` ends a line; a byte order mark and a carriage return at the end are no text."""
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    return [line.decode("utf-8").removesuffix("\r") for line in lines]


def read_predictions(run: Run) -> Outputs:
    """The columns of ``predictions.tsv``: predictions, and targets.

    Raises:
        ValueError: it is missing, or a line is not as it should be.
        OSError: it cannot be read.
    """
    path = run.folder / "predictions.tsv"
    if not path.is_file():
        raise ValueError("no predictions.tsv")
    head, *lines = _lines(path)
    if head != "target\tprediction" or not lines:
        raise ValueError("predictions.tsv does not begin with target<TAB>prediction and a line")
    columns: Outputs = ([], [])
    for number, line in enumerate(lines, start=2):
        target, *others = line.split("\t")
        if len(others) != 1:
            raise ValueError(f"line {number} of predictions.tsv is no target and prediction")
        columns[0].append(others[0])
        columns[1].append(target)
    return columns


TRANSLATIONS = SignificanceTest(
    "hypotheses.txt", read_translations, bootstrap_translations, "sacreBLEU's paired bootstrap"
)
PREDICTIONS = SignificanceTest(
    "predictions.tsv", read_predictions, bootstrap_predictions, "a paired bootstrap"
)

METRICS = {  # in the order of the tables
    metric.name: metric
    for metric in (
        Metric("BLEU", "higher", digits=2, is_charted=True, test=TRANSLATIONS),
        Metric("chrF", "higher", digits=2, test=TRANSLATIONS),
        Metric("accuracy", "higher", digits=2, is_charted=True, test=PREDICTIONS),
        Metric("F1", "higher", digits=2, is_charted=True, test=PREDICTIONS),
        Metric("Matthews", "higher", digits=2, is_charted=True, test=PREDICTIONS),
        Metric("Pearson", "higher", digits=2, is_charted=True, test=PREDICTIONS),
        Metric("Spearman", "higher", digits=2, is_charted=True, test=PREDICTIONS),
        Metric("perplexity", "lower", digits=2, is_charted=True),
        Metric("test loss", "lower", is_charted=True),
        Metric("valid loss", "lower", is_charted=True),
        Metric("test NLL (bits a token)", "lower"),
        Metric("test NLL (bits a word)", "lower"),
        Metric("valid NLL (bits a token)", "lower"),
        Metric("valid perplexity", "lower"),
        Metric("zero-read perplexity", "lower"),
    )
}


def metric_of(name: str) -> Metric:
    """What is known of a metric, of an unknown one its name alone."""
    return METRICS.get(name, Metric(name))


def measured(name: str, value: float) -> dict[str, object]:
    """A metric's entry in ``result.json``."""
    return {"value": value, "better": METRICS[name].better}


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics that are known in their order, then the others in that of the alphabet."""
    places = {name: place for place, name in enumerate(METRICS)}
    return sorted(set(names), key=lambda name: (places.get(name, len(places)), name))
