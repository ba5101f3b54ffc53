"""Is one model better than another? Intervals over seeds, and sacreBLEU's paired bootstrap."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

BOOTSTRAP_SEED = "12345"  # sacreBLEU's own


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
    from scipy.stats import t

    gained = fmean(values.values()) - fmean(baseline.values())
    if len(values) < 2 or len(baseline) < 2:
        return Difference(gained)
    if values.keys() == baseline.keys():
        kind, freedom = "paired", len(values) - 1.0
        error = stdev(values[seed] - baseline[seed] for seed in values) / sqrt(len(values))
    else:
        squares = [stdev(some.values()) ** 2 / len(some) for some in (values, baseline)]
        kind, error, freedom = "Welch", sqrt(sum(squares)), 1.0
        if error > 0:
            freedom = sum(squares) ** 2 / sum(
                square**2 / (len(some) - 1) for square, some in zip(squares, (values, baseline))
            )
    margin = float(t.ppf(0.975, freedom)) * error
    return Difference(gained, gained - margin, gained + margin, kind)


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
        return CHRF(
            lowercase=lowercase,
            eps_smoothing=not effective,
            char_order=int(fields["nc"]),
            word_order=int(fields["nw"]),
            whitespace=fields["space"] == "yes",
        )
    except (KeyError, AssertionError, ImportError, RuntimeError) as error:
        raise ValueError(f"signature {signature!r}: {error}") from error


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


def paired_bootstrap(
    systems: Sequence[tuple[str, Sequence[str]]],
    references: Sequence[str],
    metric: str,
    signature: str,
    samples: int,
) -> tuple[str, list[tuple[float, float | None]]]:
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
    told = []
    for (_, translations), found in zip(systems, scores[name]):
        # of a system against itself sacreBLEU says p = 1 / (samples + 1), as if it were significant
        is_same = found.p_value is not None and list(translations) == list(systems[0][1])
        told.append((found.score, 1.0 if is_same else found.p_value))
    return str(signatures[name]), told
