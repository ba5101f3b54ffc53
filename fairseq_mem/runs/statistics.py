"""Is one model better than another? Intervals over seeds, and sacreBLEU's paired bootstrap."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

MOST_ORDER = 20  # of n-grams in chrF; the usual ones are 6 and 2
BOOTSTRAP_SEED = "12345"  # sacreBLEU's own

# A test's own signature, and for every system its score and p-value (None for the first).
Tested = tuple[str, list[tuple[float, float | None]]]


@dataclass
class Difference:
    """The difference of two means and its 95 % interval, if there are seeds enough for one."""

    value: float
    low: float | None = None
    high: float | None = None
    kind: str = ""  # "paired" or "Welch"


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Compare two models by their seeds, with Student's t distribution.

    With the same seeds the differences seed by seed are one sample; else it is Welch's interval,
    for two samples that may differ in their spread.

    Args:
        values: of the model, by seed.
        baseline: of the one it is compared with.
    """
    from scipy.stats import ttest_ind, ttest_rel

    gain = fmean(values.values()) - fmean(baseline.values())
    if len(values) < 2 or len(baseline) < 2:
        return Difference(gain)
    if values.keys() == baseline.keys():
        kind, ours = "paired", [values[seed] for seed in baseline]
        scatters = len({values[seed] - baseline[seed] for seed in values}) > 1
    else:
        kind, ours = "Welch", list(values.values())
        scatters = len({*values.values()}) > 1 or len({*baseline.values()}) > 1
    if not scatters:  # scipy has no interval of no width
        return Difference(gain, gain, gain, kind)
    theirs = list(baseline.values())
    with warnings.catch_warnings():
        # where all seeds gain the same but for rounding, the interval is as narrow as rounding
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        if kind == "paired":
            test = ttest_rel(ours, theirs)
        else:
            test = ttest_ind(ours, theirs, equal_var=False)
        low, high = test.confidence_interval(0.95)
    return Difference(gain, float(low), float(high), kind)


def scorer_of(metric: str, signature: str) -> Any:
    """Build sacreBLEU's metric from the signature that a score was reported with.

    Raises:
        ValueError: the signature is none of this metric's, or of more than one reference.
    """
    from sacrebleu.metrics import BLEU, CHRF

    fields = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    try:
        if fields["nrefs"] != "1":
            raise ValueError(f"{fields['nrefs']} references")
        lowercase, effective = fields["case"] == "lc", fields["eff"] == "yes"
        if metric == "BLEU":
            smoothing = re.fullmatch(r"([a-z-]+)(?:\[([\d.]+)\])?", fields["smooth"])
            if smoothing is None:
                raise ValueError(f"smoothing {fields['smooth']}")
            return BLEU(
                lowercase=lowercase,
                effective_order=effective,
                tokenize=fields["tok"],
                smooth_method=smoothing[1],
                smooth_value=float(smoothing[2]) if smoothing[2] else None,
            )
        orders = [int(fields[name]) for name in ("nc", "nw")]
        if not all(0 <= order <= MOST_ORDER for order in orders):
            raise ValueError(f"orders {orders}")
        return CHRF(
            lowercase=lowercase,
            eps_smoothing=not effective,
            char_order=orders[0],
            word_order=orders[1],
            whitespace=fields["space"] == "yes",
        )
    except (KeyError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        known = signature if len(signature) <= 100 else f"{signature[:97]}..."
        raise ValueError(f"signature {known!r}: {str(error)[:200]}") from error


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """SacreBLEU takes the seed from the environment; the same runs must give the same report."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = BOOTSTRAP_SEED
    try:
        yield
    finally:
        del os.environ["SACREBLEU_SEED"]
        if before is not None:
            os.environ["SACREBLEU_SEED"] = before


def bootstrap_translations(
    systems: Sequence[tuple[str, Sequence[str]]],
    references: Sequence[str],
    metric: str,
    signature: str,
    samples: int,
) -> Tested:
    """Run sacreBLEU's paired bootstrap of every system against the first.

    Args:
        systems: names and translations; the first is the baseline.
        references: one for each translation.
        metric: "BLEU" or "chrF".
        signature: with which the systems were scored.
        samples: how often to resample.

    Returns:
        The test's own signature, and for every system its score and p-value (None for the first).
    """
    from sacrebleu.significance import PairedTest

    with _fixed_seed():
        test = PairedTest(
            list(systems),
            {metric: scorer_of(metric, signature)},
            [list(references)],
            test_type="bs",
            n_samples=samples,
        )
        signatures, scores = test()
    (name,) = signatures
    tested: list[tuple[float, float | None]] = []
    for (_, translations), found in zip(systems, scores[name]):
        # of a system against itself sacreBLEU says p = 1 / (samples + 1), as if it were significant
        is_same = found.p_value is not None and list(translations) == list(systems[0][1])
        tested.append((found.score, 1.0 if is_same else found.p_value))
    return str(signatures[name]), tested


def _class_numbers(columns: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Class names as numbers, the same in all columns."""
    names = sorted({name for column in columns for name in column})
    numbers = {name: number for number, name in enumerate(names)}
    return [np.array([numbers[name] for name in column]) for column in columns]


def _is_positive(columns: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Columns of booleans, True where the class is 1: what F1 counts."""
    return [np.array([name == "1" for name in column]) for column in columns]


def _floats(columns: Sequence[Sequence[str]]) -> list[np.ndarray]:
    numbers = [np.array([float(text) for text in column]) for column in columns]
    if not all(np.isfinite(column).all() for column in numbers):
        raise ValueError("a prediction or target is not finite")
    return numbers


def _accuracy(predicted: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean(predicted == expected))


def _f1(predicted: np.ndarray, expected: np.ndarray) -> float:
    both, either = np.sum(predicted & expected), np.sum(predicted) + np.sum(expected)
    return float(2 * both / either) if either else 0.0


def _matthews(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Matthews' correlation of two or more classes (Gorodkin 2004); 0 if only one is predicted."""
    classes = 1 + max(predicted.max(), expected.max())
    confusion = np.bincount(expected * classes + predicted, minlength=classes**2)
    confusion = confusion.reshape(classes, classes).astype(float)
    truly, guessed, count = confusion.sum(1), confusion.sum(0), confusion.sum()
    spread = np.sqrt((count**2 - truly @ truly) * (count**2 - guessed @ guessed))
    return float((count * confusion.trace() - truly @ guessed) / spread) if spread else 0.0


def _pearson(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    predicted, expected = predicted - predicted.mean(), expected - expected.mean()
    spread = np.sqrt((predicted @ predicted) * (expected @ expected))
    return float(predicted @ expected / spread) if spread else 0.0


def _spearman(predicted: np.ndarray, expected: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(predicted), rankdata(expected))


# Of a metric over predictions: what it reads in them, and its value as a fraction.
SCORES: dict[
    str,
    tuple[
        Callable[[Sequence[Sequence[str]]], list[np.ndarray]],
        Callable[[np.ndarray, np.ndarray], float],
    ],
] = {
    "accuracy": (_class_numbers, _accuracy),
    "F1": (_is_positive, _f1),
    "Matthews": (_class_numbers, _matthews),
    "Pearson": (_floats, _pearson),
    "Spearman": (_floats, _spearman),
}


def bootstrap_predictions(
    systems: Sequence[tuple[str, Sequence[str]]],
    targets: Sequence[str],
    metric: str,
    signature: str,
    samples: int,
) -> Tested:
    """Run sacreBLEU's procedure on predictions: the paired bootstrap against the first system.

    Args:
        systems: names and predictions; the first is the baseline.
        targets: one for each prediction.
        metric: one of ``SCORES``.
        signature: not used; there is one way to compute each metric.
        samples: how often to resample.

    Returns:
        The test's own signature, and for every system its score in percent and p-value (None for
        the first).

    Raises:
        ValueError: predictions or targets are no numbers, where the metric needs numbers.
    """
    prepare, score = SCORES[metric]
    expected, *predicted = prepare([targets, *(predictions for _, predictions in systems)])
    lines = np.random.default_rng(int(BOOTSTRAP_SEED)).choice(
        len(targets), size=(samples, len(targets)), replace=True
    )
    exact = [100 * score(values, expected) for values in predicted]
    resampled = [
        np.array([100 * score(values[chosen], expected[chosen]) for chosen in lines])
        for values in predicted
    ]
    tested: list[tuple[float, float | None]] = [(exact[0], None)]
    for value, values, ours in zip(exact[1:], resampled[1:], predicted[1:]):
        gains = np.abs(values - resampled[0])
        exceeding = int(np.sum(gains - gains.mean() > abs(value - exact[0])))
        is_same = bool(np.array_equal(ours, predicted[0]))
        tested.append((value, 1.0 if is_same else (exceeding + 1) / (samples + 1)))
    return f"metric:{metric}|bs:{samples}|seed:{BOOTSTRAP_SEED}", tested
