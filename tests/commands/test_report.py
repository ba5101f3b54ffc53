"""`fairseq-mem report`: its numbers against scipy's and sacreBLEU's."""

import re
import shutil
from statistics import fmean, stdev

import pytest
from helpers.commands import run
from helpers.finished_runs import (
    REFERENCE,
    SIGNATURES,
    edit,
    make_run,
    refusal,
    report,
    rows,
    translation,
    value,
)
from scipy import stats

from fairseq_mem.runs.statistics import bootstrap_translations, difference
from fairseq_mem.tools import cli


def test_mean_spread_and_paired_interval(runs, tmp_path):
    report(runs, "--out", tmp_path / "out")
    base, ours = (
        [value(runs / model / str(seed), "BLEU") for seed in (1, 2, 3)]
        for model in ("baseline", "mem-10")
    )
    row = rows(tmp_path / "out")["mem-10", "BLEU", "trial"]
    assert row["seeds"] == "3" and row["interval"] == "paired"
    assert float(row["mean"]) == pytest.approx(fmean(ours), rel=1e-12)
    assert float(row["standard_deviation"]) == pytest.approx(stdev(ours), rel=1e-12)
    expected = stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert float(row["difference"]) == pytest.approx(fmean(ours) - fmean(base), rel=1e-12)
    assert float(row["interval_low"]) == pytest.approx(expected.low, rel=1e-9)
    assert float(row["interval_high"]) == pytest.approx(expected.high, rel=1e-9)
    assert float(row["wall_seconds"]) == 1200 and float(row["target_tokens_per_second"]) == 1002
    assert row["parameters"] == str(1234567 + 60)
    assert rows(tmp_path / "out")["baseline", "BLEU", "trial"]["difference"] == ""
    told = (tmp_path / "out/report.md").read_text()
    assert f"| MemTransformer 10 | 3 | {fmean(ours):.2f} ± {stdev(ours):.2f} |" in told
    assert told.index("### BLEU (higher") < told.index("### chrF") < told.index("### valid loss (l")
    for once in (
        *SIGNATURES.values(),
        "2 x CPU, threads: 1",
        "fairseq-train --arch mem-10 --seed 1",
    ):
        assert told.count(f"{once}") == 1, once
    assert "torch 2.13.0" in told and "hardware of 6 runs" in told
    assert (tmp_path / "out/report.png").read_bytes().startswith(b"\x89PNG")


def test_other_seeds_are_not_paired():
    ours, base = {1: 3.0, 2: 4.5, 5: 4.0}, {1: 1.0, 2: 2.0, 3: 1.1, 4: 0.2}
    found = difference(ours, base)
    expected = stats.ttest_ind(list(ours.values()), list(base.values()), equal_var=False)
    assert found.kind == "Welch"
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert difference({2: 1.0, 1: 3.0}, {1: 1.0, 2: 2.0}).kind == "paired"


def test_seeds_are_paired_by_their_number():
    """Whatever the order in which the runs were found."""
    base = {1: 1.0, 2: 2.0, 3: 4.0}
    found = difference({3: 4.5, 1: 1.25, 2: 2.25}, base)
    expected = stats.ttest_rel([1.25, 2.25, 4.5], list(base.values())).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_one_seed_has_no_interval():
    found = difference({1: 2.0}, {1: 1.0})
    assert (found.value, found.low, found.kind) == (1.0, None, "")
    assert difference({1: 2.0, 2: 3.0}, {1: 1.0}).low is None


def test_equal_values_give_an_interval_of_no_width():
    found = difference({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0})
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    found = difference({1: 2.0, 2: 2.0}, {3: 1.0, 4: 1.0})
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.cli
def test_significance_is_that_of_sacrebleus_command(runs, tmp_path):
    """`sacrebleu --paired-bs` on the runs' files, seed by seed, of models close together."""
    shutil.rmtree(runs / "mem-10")
    for seed in (1, 2, 3):
        make_run(runs / f"mem-10/{seed}", "mem-10", seed, 0.33)
    done = run("fairseq-mem", "report", runs, "--out", tmp_path / "out", "--n-samples", "200")
    assert "matplotlib" not in done.stderr and "Performing" not in done.stderr
    found = rows(tmp_path / "out")
    for seed in (1, 2):
        files = [runs / model / str(seed) / "hypotheses.txt" for model in ("baseline", "mem-10")]
        done = run(
            "sacrebleu", runs / "baseline/1/reference.txt", "-i", *files, "-m", "bleu", "chrf",
            "--paired-bs", "--paired-bs-n", "200", "--format", "text",
        )  # fmt: skip
        told_by_sacrebleu = [float(p) for p in re.findall(r"p = ([\d.]+)", done.stdout)]
        assert len(told_by_sacrebleu) == 2 and max(told_by_sacrebleu) > 0.01
        for metric, p in zip(("BLEU", "chrF"), told_by_sacrebleu):
            pairs = found["mem-10", metric, "trial"]["p_values"].split()
            told = dict(pair.split(":") for pair in pairs)
            assert float(told[str(seed)]) == pytest.approx(p, abs=5e-5)


def test_significance_has_a_direction(runs, tmp_path):
    for seed in (1, 2, 3):
        make_run(runs / f"mem-5/{seed}", "mem-5", seed, 0.8)
        make_run(runs / f"same/{seed}", "same", seed, 0.35)
        shutil.copy(runs / f"baseline/{seed}/hypotheses.txt", runs / f"same/{seed}")
        edit(runs / f"same/{seed}", metrics={
            "BLEU": {"value": value(runs / f"baseline/{seed}", "BLEU"), "better": "higher"}
        })  # fmt: skip
    report(runs, "--out", tmp_path / "out")
    found = rows(tmp_path / "out")
    for model, counts in (("mem-10", "30"), ("mem-5", "03"), ("same", "00")):
        row = found[model, "BLEU", "trial"]
        assert row["significance_tests"] == "3"
        assert row["significantly_better"] + row["significantly_worse"] == counts
    assert found["same", "BLEU", "trial"]["p_values"] == "1:1.0 2:1.0 3:1.0"
    told = (tmp_path / "out/report.md").read_text()
    order = [told.index(f"| {name} | 3 |") for name in ("baseline", "MemTransformer 5")]
    assert sorted(order) == order and "same has no chrF" not in told
    assert "same/1 has no chrF" in told


def test_the_bootstraps_seed_is_ours(monkeypatch):
    systems = [("a", translation(1, 0.3)), ("b", translation(2, 0.28))]
    found = bootstrap_translations(systems, REFERENCE, "BLEU", SIGNATURES["BLEU"], 50)
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    assert bootstrap_translations(systems, REFERENCE, "BLEU", SIGNATURES["BLEU"], 50) == found
    assert "seed:12345" in found[0]


def test_the_signatures_options_are_used():
    systems = [("a", [line.upper() for line in REFERENCE]), ("b", REFERENCE)]
    for metric in SIGNATURES:
        cased = bootstrap_translations(systems, REFERENCE, metric, SIGNATURES[metric], 10)[1]
        bare = SIGNATURES[metric].replace("case:mixed", "case:lc")
        _, uncased = bootstrap_translations(systems, REFERENCE, metric, bare, 10)
        assert cased[0][0] < 50 and uncased[0][0] == pytest.approx(100)
    for bad in ("", "nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp", "nrefs:1|case:lc|eff:no|tok:x"):
        with pytest.raises(ValueError):
            bootstrap_translations(systems, REFERENCE, "BLEU", bad, 10)
    floor = "nrefs:1|case:mixed|eff:no|tok:none|smooth:floor[0.50]|version:2.6.0"
    assert "smooth:floor[0.50]" in bootstrap_translations(systems, REFERENCE, "BLEU", floor, 10)[0]


def test_the_same_runs_give_the_same_bytes(runs, tmp_path, monkeypatch):
    report(runs, "--out", tmp_path / "one")
    monkeypatch.chdir(runs)
    report("mem-10", ".", "baseline/../baseline", "--out", tmp_path / "two")
    for name in ("report.csv", "report.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    report(runs, "--out", tmp_path / "two")
    assert (tmp_path / "one/report.md").read_bytes() == (tmp_path / "two/report.md").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one/report.md").read_text()


def test_other_data_sizes_and_updates_stay_apart(runs, tmp_path):
    make_run(runs / "longer", "mem-10", 1, 0.0, updates=4000)
    make_run(runs / "small/1", "mem-10", 1, 0.0, size="small")
    make_run(runs / "small/2", "baseline", 1, 0.0, size="small")
    report(runs, "--out", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert found["mem-10", "BLEU", "small"]["seeds"] == "1"
    told = (tmp_path / "out/report.md").read_text()
    sections = re.findall(r"^## (.*)$", told, re.M)
    assert sections[:3] == [
        "bible, small, 2,000 updates", "bible, trial, 2,000 updates", "bible, trial, 4,000 updates",
    ]  # fmt: skip
    assert "No finished run of `baseline`" not in told.split("## bible, trial, 4")[0]
    ours = [value(runs / "mem-10" / str(seed), "BLEU") for seed in (1, 2, 3)]
    assert f"| {fmean(ours):.2f} ± {stdev(ours):.2f} |" in told


def test_a_reference_for_all_runs(runs, tmp_path):
    for folder in (runs / "mem-10", runs / "baseline"):
        shutil.move(folder / "1/reference.txt", folder / "reference.txt")
        (folder / "2/reference.txt").unlink()
        shutil.move(folder / "3/reference.txt", runs / "test.txt")
        edit(folder / "3", reference="../../test.txt")
    report(runs, "--out", tmp_path / "out")
    assert rows(tmp_path / "out")["mem-10", "BLEU", "trial"]["significance_tests"] == "3"


def test_lines_of_texts_end_at_newlines_alone(runs, tmp_path):
    """Other ends of lines are characters of a sentence; a byte order mark is none."""
    report(runs, "--out", tmp_path / "out")
    found = rows(tmp_path / "out")["mem-10", "BLEU", "trial"]["significance_tests"]
    for model in ("baseline", "mem-10"):
        for file in ("hypotheses.txt", "reference.txt"):
            path = runs / model / "1" / file
            lines = path.read_bytes().split(b"\n")[:-1]
            lines[0] = b"\xef\xbb\xbf" + lines[0]
            lines[1] += " \x0b \x85 \u2028".encode() + b" \r \r"
            path.write_bytes(b"\n".join(lines))
    report(runs, "--out", tmp_path / "new")
    assert rows(tmp_path / "new")["mem-10", "BLEU", "trial"]["significance_tests"] == found


def test_language_models_have_no_translations(tmp_path):
    for model, better in (("baseline", 1.0), ("mem-10", 0.9)):
        for seed in (1, 2):
            folder = make_run(tmp_path / f"runs/{model}-{seed}", model, seed)
            edit(folder, signatures={}, metrics={
                "perplexity": {"value": 30.0 * better + seed, "better": "lower"}
            })  # fmt: skip
            for name in ("hypotheses.txt", "reference.txt"):
                (folder / name).unlink()
    report(tmp_path / "runs", "--out", tmp_path / "out")
    told = (tmp_path / "out/report.md").read_text()
    assert "| MemTransformer 10 | 2 | 28.50 ± 0.71 |" in told
    assert "bootstrap" not in told and "p < 0.05" not in told and "## Notes" not in told
    assert "−3.00" in told


def test_a_newer_sacrebleu_is_named_not_refused(runs, tmp_path):
    newer = {name: text.replace("2.6.0", "2.7.0") for name, text in SIGNATURES.items()}
    edit(runs / "mem-10/1", signatures=newer)
    report(runs, "--out", tmp_path / "out")
    told = (tmp_path / "out/report.md").read_text()
    assert newer["BLEU"] in told and SIGNATURES["BLEU"] in told


def test_settings_that_differ_between_seeds_are_named(runs, tmp_path):
    make_run(runs / "mem-10/4", "mem-10", 4, lr=0.1, hardware="a GPU")
    report(runs, "--out", tmp_path / "out")
    told = (tmp_path / "out/report.md").read_text()
    assert "The seeds of mem-10 differ in `lr`" in told
    assert "different hardware" in told and "hardware of 1 run: a GPU" in told


def test_another_baseline(runs, tmp_path):
    report(runs, "--out", tmp_path / "out", "--baseline", "mem-10")
    found = rows(tmp_path / "out")
    assert found["mem-10", "BLEU", "trial"]["difference"] == ""
    assert float(found["baseline", "BLEU", "trial"]["difference"]) < 0
    message = refusal(runs, "--out", tmp_path / "out", "--baseline", "mem-7")
    assert "mem-7" in message and "baseline, mem-10" in message


def test_without_a_baseline_nothing_is_compared(runs, tmp_path):
    shutil.rmtree(runs / "baseline")
    make_run(runs / "mem-5/1", "mem-5", 1)
    report(runs, "--out", tmp_path / "out")
    told = (tmp_path / "out/report.md").read_text()
    assert "No finished run of `baseline`" in told and "95 % interval |" not in told


def test_slips_of_the_keyboard(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert "no folder" in refusal(tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "no run in" in refusal(tmp_path / "empty", "--out", out)
    make_run(tmp_path / "early/1", "mem-5", 1, finished=False)
    message = refusal(tmp_path / "early", "--out", out)
    assert "none of 1 runs is finished" in message and "unfinished" in message
    with pytest.raises(SystemExit) as refused:
        cli.main(["report", str(runs), "--out", str(out), "--n-samples", "0"])
    assert (
        refused.value.code == 2 and "'0' is not a whole number above 0" in capsys.readouterr().err
    )
    assert not out.exists()
    out.write_text("a file")
    assert "cannot write" in refusal(runs, "--out", out)
