"""Metrics: their registry, and those over classes and numbers against scipy's values."""

import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from fairseq_mem.runs import metrics, statistics
from fairseq_mem.tools import cli

RNG = np.random.default_rng(1)
TARGETS = RNG.integers(0, 2, 300)


def predictions(errors, seed, targets=TARGETS):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(targets)) < errors, 1 - targets, targets)


def texts(values):
    return [str(value) for value in values]


def scored(metric, predicted, targets, samples=10):
    systems = [("baseline", texts(column)) for column in predicted]
    return statistics.bootstrap_predictions(systems, texts(targets), metric, "", samples)[1]


def test_scores_are_those_of_the_definitions():
    found = predictions(0.2, 2)
    hits = {(p, t): int(np.sum((found == p) & (TARGETS == t))) for p in (0, 1) for t in (0, 1)}
    f1 = 2 * hits[1, 1] / (2 * hits[1, 1] + hits[1, 0] + hits[0, 1])
    assert scored("accuracy", [found], TARGETS)[0][0] == pytest.approx(
        100 * (hits[0, 0] + hits[1, 1]) / 300
    )
    assert scored("F1", [found], TARGETS)[0][0] == pytest.approx(100 * f1)
    # of two classes Matthews' correlation is Pearson's
    expected = 100 * pearsonr(found, TARGETS)[0]
    assert scored("Matthews", [found], TARGETS)[0][0] == pytest.approx(expected)
    numbers = RNG.normal(size=300)
    near = numbers + RNG.normal(size=300).round(1)
    for metric, reference in (("Pearson", pearsonr), ("Spearman", spearmanr)):
        expected = 100 * reference(near, numbers)[0]
        assert scored(metric, [near], numbers)[0][0] == pytest.approx(expected)


def test_matthews_of_three_classes():
    """Gorodkin's sum over classes, written out."""
    targets, found = RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)
    found = np.where(RNG.random(200) < 0.5, targets, found)
    one_hot = [np.eye(3)[column] for column in (found, targets)]
    centred = [columns - columns.mean(0) for columns in one_hot]
    covariance = np.sum(centred[0] * centred[1])
    spread = np.sqrt(np.sum(centred[0] ** 2) * np.sum(centred[1] ** 2))
    value = scored("Matthews", [found], targets)[0][0]
    assert value == pytest.approx(100 * covariance / spread)


@pytest.mark.parametrize("metric", list(statistics.SCORES))
def test_significance(metric):
    base, close, better = predictions(0.3, 1), predictions(0.3, 2), predictions(0.05, 3)
    found = scored(metric, [base, close, better, base], TARGETS, samples=200)
    ps = [p for _, p in found]
    assert ps[0] is None and ps[1] > 0.05 and ps[2] == 1 / 201 and ps[3] == 1.0
    assert found == scored(metric, [base, close, better, base], TARGETS, samples=200)


def test_the_bootstrap_is_sacrebleus():
    """Of sentences that are right or wrong, sacreBLEU's own functions give the same p."""
    from sacrebleu.significance import _compute_p_value

    base, ours = predictions(0.3, 1), predictions(0.25, 2)
    lines = np.random.default_rng(12345).choice(300, size=(500, 300), replace=True)
    gains = 100 * np.abs((ours == TARGETS)[lines].mean(1) - (base == TARGETS)[lines].mean(1))
    gain = 100 * abs(np.mean(ours == TARGETS) - np.mean(base == TARGETS))
    expected = _compute_p_value(gains - gains.mean(), gain)
    assert scored("accuracy", [base, ours], TARGETS, samples=500)[1][1] == pytest.approx(expected)


def test_a_constant_prediction_correlates_with_nothing():
    for metric in ("Matthews", "Pearson", "Spearman"):
        assert scored(metric, [np.zeros(300, int)], TARGETS)[0][0] == 0


def test_numbers_are_numbers():
    with pytest.raises(ValueError, match="could not convert"):
        scored("Pearson", [["a", "b"]], [1, 2])
    with pytest.raises(ValueError, match="not finite"):
        scored("Pearson", [["1", "nan"]], [1, 2])


def test_order_and_digits():
    names = ["zz", "valid loss", "accuracy", "BLEU", "a", "perplexity"]
    assert metrics.in_order(names) == ["BLEU", "accuracy", "perplexity", "valid loss", "a", "zz"]
    assert metrics.metric_of("BLEU").digits == 2 and metrics.metric_of("a").digits == 3
    assert metrics.measured("perplexity", 3.0) == {"value": 3.0, "better": "lower"}
    assert set(statistics.SCORES) == {
        name for name, metric in metrics.METRICS.items() if metric.test is metrics.PREDICTIONS
    }


def make_run(folder, model, seed, errors, better="higher"):
    folder.mkdir(parents=True)
    found = predictions(errors, seed)
    lines = [f"{target}\t{guess}" for target, guess in zip(TARGETS, found)]
    (folder / "predictions.tsv").write_text("\n".join(["target\tprediction", *lines]) + "\n")
    settings = {
        "format": 1, "model": model, "size": "base", "data": "CoLA", "seed": seed, "updates": 10,
    }  # fmt: skip
    values = {
        metric: {"value": scored(metric, [found], TARGETS)[0][0], "better": better}
        for metric in ("accuracy", "Matthews")
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "result.json").write_text(json.dumps({**settings, "metrics": values}))
    return folder


def test_a_sentence_encoder_is_reported_like_a_translation_model(tmp_path):
    for seed in (1, 2, 3):
        make_run(tmp_path / f"runs/baseline/{seed}", "baseline", seed, 0.3)
        make_run(tmp_path / f"runs/mem-5/{seed}", "mem-5", seed, 0.1)
    make_run(tmp_path / "runs/wrong", "mem-9", 1, 0.1, better="lower")
    out = tmp_path / "out"
    cli.main(["report", str(tmp_path / "runs"), "--out", str(out), "--n-samples", "50"])
    text = (out / "report.md").read_text()
    assert text.index("### accuracy (higher") < text.index("### Matthews (higher")
    assert text.count("3 / 0 of 3") == 2 and "metric:Matthews|bs:50|seed:12345" in text
    assert "The p-values are a paired bootstrap against the baseline" in text
    assert "says that a lower accuracy is better" in text


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (None, "no predictions.tsv"),
        ("0\t1\n", "does not begin with target<TAB>prediction"),
        ("target\tprediction\n", "does not begin with target<TAB>prediction and a line"),
        ("target\tprediction\n0\t1\n0\n", "line 3 of predictions.tsv"),
        ("target\tprediction\n0\t1\t1\n", "line 2 of predictions.tsv"),
        ("target\tprediction\n0\t1\n", "its reference is not that of"),
    ],
)
def test_predictions_that_cannot_be_tested_are_named(tmp_path, text, note):
    for seed in (1, 2):
        make_run(tmp_path / f"runs/baseline/{seed}", "baseline", seed, 0.3)
        run = make_run(tmp_path / f"runs/mem-5/{seed}", "mem-5", seed, 0.1)
    path = run / "predictions.tsv"
    path.unlink() if text is None else path.write_text(text)
    out = tmp_path / "out"
    cli.main(["report", str(tmp_path / "runs"), "--out", str(out), "--n-samples", "50"])
    report = (out / "report.md").read_text()
    assert "runs/mem-5/2 is left out of the significance test: " in report and note in report
    assert "1 / 0 of 1" in report
