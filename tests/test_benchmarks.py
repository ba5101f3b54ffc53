"""The benchmarks run and say what they measured; their figures are nobody's business here."""

import json
import re

import pytest
from commands import ROOT
from commands import run as run_command
from trained import texts, train, write_test_set

pytestmark = pytest.mark.cli


def bench(tmp_path, *arguments, check=True):
    return run_command(
        "python", ROOT / "benchmarks/run.py", "--quick", "--results", tmp_path, *arguments,
        check=check, cwd=tmp_path,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("suite", "arguments", "contestants"),
    [
        (
            "training",
            ["--sizes", "small", "--lengths", "real", "--batch-tokens", "200"],
            {"fairseq", "mem-10", "mem-bottleneck-20"},
        ),
        ("generation", ["--sizes", "small"], {"fairseq", "mem-10"}),
        ("language", ["--lengths", "30"], {"fairseq-lm", "mem-lm-10"}),
        ("length", ["--sizes", "small", "--lengths", "64", "128", "--modes", "inference"], set()),
        ("streams", ["--sizes", "small", "--vocabulary", "200"], {"transformer_lm", "xl-cache"}),
    ],
)
def test_a_suite_writes_its_table(tmp_path, suite, arguments, contestants):
    done = bench(tmp_path, "--suites", suite, *arguments)
    table = (tmp_path / f"{suite}.md").read_text(encoding="utf-8")
    assert "run.py" in table and table.strip() in done.stdout
    assert "Error" not in table
    written = json.loads((tmp_path / f"{suite}.json").read_text(encoding="utf-8"))
    assert "torch" in json.dumps(written)
    for name in contestants:
        assert f"| {name} |" in table


@pytest.mark.parametrize("count", [1, 3])
def test_batches_of_real_lengths_hold_little_padding_as_those_of_text_do(monkeypatch, count):
    """Padding costs nothing with the fused criterion, so much of it would flatter us."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.batches import REAL, Batches

    batches = Batches(REAL, tokens=3000, count=count, words=100)
    for sample in batches.samples():
        for tokens in (sample["net_input"]["src_tokens"], sample["target"]):
            assert 2700 <= max(sample["target"].numel(), tokens.numel()) <= 3000
            assert tokens.eq(batches.dictionary().pad()).float().mean() < 0.06


def test_options_that_do_not_fit_are_refused(tmp_path):
    done = bench(tmp_path, "--dtype", "fp16", check=False)
    assert done.returncode == 2 and "needs --device cuda" in done.stderr


@pytest.mark.slow
def test_an_exported_model_competes(tmp_path):
    """Same sentences and limits: nearly all translations are those of fairseq's generator."""
    pytest.importorskip("ctranslate2")
    checkpoint = train(tmp_path / "data-bin", ["--memory-tokens", "3"], updates=100)
    write_test_set(tmp_path / "data-bin", texts(20, seed=77))
    done = bench(
        tmp_path, "--suites", "generation", "--data", tmp_path / "data-bin", "--checkpoints",
        f"mem-3={checkpoint}", "--contestants", "mem-3", "mem-3-ct2-float32",
    )  # fmt: skip
    (row,) = [line for line in done.stdout.splitlines() if "| mem-3-ct2-float32 |" in line]
    (same,) = re.findall(r"(\d+) of 20", row)
    assert int(same) >= 16 and " x " in row
