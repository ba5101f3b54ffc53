"""The benchmarks run and say what they measured; their figures are nobody's business here."""

import hashlib
import json
import re
from types import SimpleNamespace

import pytest
from helpers.commands import ROOT
from helpers.commands import run as run_command
from helpers.trained_models import batch_of, dictionary, texts, train, write_test_set

pytestmark = pytest.mark.cli
TRAINING = ["--sizes", "small", "--lengths", "real", "--batch-tokens", "200"]


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
            [*TRAINING, "--contestants", "fairseq", "mem-10", "mem-bottleneck-20"],
            {"fairseq", "mem-10", "mem-bottleneck-20"},
        ),
        ("generation", ["--sizes", "small", "--contestants", "fairseq", "mem-10"], {"mem-10"}),
        (
            "streams",
            ["--vocabulary", "200", "--contestants", "transformer_lm", "xl-mem-10*", "xl-cache"],
            {"transformer_lm", "xl-cache"},
        ),
        ("documents", ["--vocabulary", "200", "--contestants", "gate-4*"], {"gate-4"}),
        ("language", ["--lengths", "30", "--contestants", "mem-lm-10"], {"mem-lm-10"}),
        ("length", ["--sizes", "small", "--lengths", "64", "128", "--modes", "inference"], set()),
        *(
            pytest.param(suite, arguments, contestants, marks=pytest.mark.slow)
            for suite, arguments, contestants in (
                ("training", TRAINING, {"fairseq", "mem-10"}),
                ("compile", ["--batch-tokens", "200"], {"mem-10", "mem-10-compiled-model"}),
                ("documents", ["--vocabulary", "200"], {"context-3", "plain-4"}),
                ("generation", ["--sizes", "small"], {"fairseq", "mem-10"}),
                ("language", ["--lengths", "30"], {"fairseq-lm", "mem-lm-10"}),
                ("streams", ["--vocabulary", "200"], {"transformer_lm", "xl-cache"}),
            )
        ),
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


def test_the_script_for_a_gpu_ends_with_one_file(tmp_path):
    """On a CPU, of the smallest; a part that fails is named, and the others are there."""
    script = ROOT / "benchmarks/gpu.sh"
    flags = ["--device", "cpu", "--tiny", "--out", tmp_path / "out"]
    done = run_command(script, *flags, "--parts", "memory", cwd=tmp_path)
    text = (tmp_path / "out/gpu.md").read_text(encoding="utf-8")
    assert text.strip() in done.stdout and "| mem-10 |" in text and "| 1,000 | float16 |" in text
    for wrong, said in (
        (["--parts", "nothing"], "--parts nothing: there is no such part"),
        (["--device", "tpu"], "--device tpu: give cuda or cpu"),
        (["--fast"], "--fast: there is no such option"),
    ):
        done = run_command(script, *flags, *wrong, check=False, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr


@pytest.mark.slow
def test_all_parts_of_the_script_for_a_gpu(tmp_path):
    script, out = ROOT / "benchmarks/gpu.sh", tmp_path / "out"
    run_command(script, "--device", "cpu", "--tiny", "--out", out, cwd=tmp_path, timeout=3000)
    text = (out / "gpu.md").read_text(encoding="utf-8")
    assert text.count("\n## ") + text.startswith("## ") == 6 and "failed" not in text.lower()


def test_options_that_do_not_fit_are_refused(tmp_path):
    done = bench(tmp_path, "--dtype", "fp16", check=False)
    assert done.returncode == 2 and "needs --device cuda" in done.stderr


def test_the_quickstarts_models_compete_where_they_are(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.generation import quickstart

    examples = tmp_path / "examples"
    data = examples / "quickstart" / "work" / "data-bin"
    data.mkdir(parents=True)
    assert quickstart(tmp_path) == (data, {})
    (data / "settings.txt").write_text("source de\n")
    run = examples / "quickstart" / "work" / "run-2000"
    run.mkdir()
    assert quickstart(tmp_path)[1] == {}  # in training
    (run / "model.pt").touch()
    ours = {"mem-10": str(run / "model.pt")}
    assert quickstart(tmp_path)[1] == ours
    stock = examples / "wmt14_de_en" / "runs" / "trial" / "baseline" / "seed-1"
    stock.mkdir(parents=True)
    (stock / "model.pt").touch()
    for text, expected in (
        ("of other data", ours),
        ("source de\n", {"fairseq": str(stock / "model.pt"), **ours}),
    ):
        checksum = hashlib.sha256(text.encode()).hexdigest()[:16]
        (stock / "settings.json").write_text(json.dumps({"data_sha256": checksum}))
        assert quickstart(tmp_path)[1] == expected
    assert next(iter(quickstart(tmp_path)[1])) == "fairseq"  # the one to compare with


def test_an_exported_model_has_fairseqs_length_limit(monkeypatch):
    """Also where a batch is cut into parts: that of its longest sentence."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.exported import _jobs

    words = dictionary("de", joined=False)
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    sample = batch_of(task, [(["s1"] * length, ["s1"]) for length in (9, 5, 2)])
    search = SimpleNamespace(max_len_a=2.0, max_len_b=3)
    for most, limit in ((1000, 2 * 10 + 3), (16, 15)):
        about = {"source_prefix": ["<mem>"], "max_target_tokens": most}
        jobs = list(_jobs([sample], task, search, about, parts=3))
        assert [(len(sources[0]), limit) for _, sources, limit in jobs] == [
            (10, limit), (6, limit), (3, limit)
        ]  # fmt: skip


@pytest.mark.slow
def test_an_exported_model_competes(tmp_path):
    """Same sentences and limits: nearly all translations are those of fairseq's generator."""
    pytest.importorskip("ctranslate2")
    checkpoint = train(tmp_path / "data-bin", ["--memory-tokens", "3"], updates=None)
    write_test_set(tmp_path / "data-bin", texts(20, seed=77))
    done = bench(
        tmp_path, "--suites", "generation", "--data", tmp_path / "data-bin", "--checkpoints",
        f"mem-3={checkpoint}", "--contestants", "mem-3", "mem-3-ct2-float32",
    )  # fmt: skip
    (row,) = [line for line in done.stdout.splitlines() if "| mem-3-ct2-float32 |" in line]
    (same,) = re.findall(r"(\d+) of 20", row)
    assert int(same) >= 16 and " x " in row
