"""`fairseq-mem report`: runs that are missing, damaged or do not fit are named, not averaged."""

import os
import shutil

import pytest
from helpers.finished_runs import REFERENCE, SIGNATURES, edit, make_run, refusal, report, rows


def not_in_tables(out):
    told = (out / "report.md").read_text().split("## Not in the tables")[1].split("\n## ")[0]
    return [line.split(" | ") for line in told.splitlines() if line.startswith("| ")][2:]


def test_what_is_missing_failed_or_unfinished_is_named_and_not_averaged(runs, tmp_path, capsys):
    make_run(runs / "mem-5/1", "mem-5", 1)
    make_run(runs / "mem-5/2", "mem-5", 2, finished=False)
    failed = make_run(runs / "mem-10/4", "mem-10", 4)
    (failed / "failed.txt").write_text("out of | memory\nsecond line\n")
    report(runs, "--out", tmp_path / "out")
    found = not_in_tables(tmp_path / "out")
    assert [row[1:3] for row in found] == [
        ["mem-5", "2"], ["mem-10", "4"], ["baseline", "4"], ["mem-5", "3"], ["mem-5", "4"],
    ]  # fmt: skip
    reasons = {tuple(row[1:3]): row[3] for row in found}
    assert "unfinished" in reasons["mem-5", "2"]
    assert "failed: out of \\| memory second line" in reasons["mem-10", "4"]
    assert "missing: no run" in reasons["mem-5", "3"]
    assert "baseline, mem-10" in reasons["mem-5", "3"]
    assert rows(tmp_path / "out")["mem-10", "BLEU", "trial"]["seeds"] == "3"
    assert rows(tmp_path / "out")["mem-5", "BLEU", "trial"]["standard_deviation"] == ""
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path / 'out/report.md'}: 7 finished runs\n")
    assert printed.count("not in the tables") == 5


def test_what_was_never_begun_is_named_if_it_is_expected(runs, tmp_path):
    expected = ("--expect-models", "baseline", "mem-20", "--expect-seeds", 2, 9)
    report(runs, "--out", tmp_path / "out", *expected)
    found = {tuple(row[1:3]): row[3] for row in not_in_tables(tmp_path / "out")}
    assert set(found) == {
        *(("mem-20", seed) for seed in "1239"), ("baseline", "9"), ("mem-10", "9"),
    }  # fmt: skip
    assert found["mem-20", "9"].rstrip(" |").endswith("no run of bible, trial, 2,000 updates")


def fifo(path):
    """A pipe in a file's place: who opens it waits for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def nested(depth):
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: (run / "result.json").write_text('{"format": 1, "mo'), "is damaged"),
        (lambda run: (run / "result.json").write_bytes(b"\xff\xfe"), "is damaged"),
        (lambda run: (run / "result.json").write_text("[]"), "is damaged: no JSON object"),
        (lambda run: (run / "result.json").write_text("[" * 100_000), "nested too deeply"),
        (lambda run: (run / "settings.json").write_text('{"a":' * 400 + "1" + "}" * 400), "deeply"),
        (lambda run: edit(run, metrics={"BLEU": nested(60)}), "nested too deeply"),
        (lambda run: fifo(run / "failed.txt"), "failed: no regular file failed.txt"),
        (lambda run: fifo(run / "result.json"), "result.json is damaged: no regular file"),
        (lambda run: fifo(run / "settings.json"), "settings.json is damaged: no regular file"),
        (lambda run: fifo(run / "hypotheses.txt") or edit(run, metrics={}), "no metrics"),
        *(
            (lambda run, v=value: edit(run, metrics={"BLEU": {"value": v}}), "no finite BLEU")
            for value in (10**400, -(10**400), 1e308, float("inf"))
        ),
        (lambda run: edit(run, parameters=10**400), "parameters 1000"),
        (lambda run: edit(run, format=2), "not of format 1"),
        (lambda run: edit(run, metrics={}), "no metrics"),
        (lambda run: edit(run, metrics={"BLEU": {"value": float("nan")}}), "no finite BLEU"),
        (lambda run: edit(run, metrics={"BLEU": {"value": "24"}}), "no finite BLEU"),
        (lambda run: edit(run, metrics={"BLEU": {"value": 2, "better": "more"}}), "which BLEU"),
        (lambda run: edit(run, parameters="many"), "parameters 'many'"),
        (lambda run: edit(run, updates=1000), "other settings: updates is 1000"),
        (lambda run: (run / "settings.json").write_text("{"), "settings.json is damaged"),
        (lambda run: (run / "settings.json").write_text('{"format": 1}'), "proper model"),
    ],
)
def test_a_result_that_cannot_be_right_is_named(runs, tmp_path, spoil, reason):
    spoil(runs / "mem-10/2")
    report(runs, "--out", tmp_path / "out")
    told = [row for row in not_in_tables(tmp_path / "out") if "mem-10/2" in row[0]]
    assert len(told) == 1 and reason in told[0][3]
    row = rows(tmp_path / "out")["mem-10", "BLEU", "trial"]
    assert row["seeds"] == "2" and row["interval"] == "Welch"
    assert row["by_seed"].startswith("1:") and " 3:" in row["by_seed"]


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda run: (run / "hypotheses.txt").unlink(), "no hypotheses.txt"),
        (lambda run: (run / "reference.txt").unlink(), "no reference.txt"),
        (lambda run: edit(run, reference="../else.txt"), "no ../else.txt"),
        (lambda run: (run / "hypotheses.txt").write_text("one line\n"), "1 hypotheses for 60"),
        (
            lambda run: (run / "reference.txt").write_text("\n".join(REFERENCE[::-1]) + "\n"),
            "reference is not that of",
        ),
        (
            lambda run: (run / "hypotheses.txt").write_text("\n".join(REFERENCE) + "\n"),
            "its hypotheses.txt has BLEU 100.00",
        ),
    ],
)
def test_a_run_that_cannot_be_tested_is_named(runs, tmp_path, spoil, note):
    spoil(runs / "mem-10/2")
    report(runs, "--out", tmp_path / "out")
    told = (tmp_path / "out/report.md").read_text().split("## Notes")[1]
    assert "mem-10/2 is left out of the significance test: " in told and note in told
    row = rows(tmp_path / "out")["mem-10", "BLEU", "trial"]
    assert row["seeds"] == "3" and row["significance_tests"] == "2"


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    out = tmp_path / "out"
    lower = {**SIGNATURES, "BLEU": SIGNATURES["BLEU"].replace("tok:13a", "tok:intl")}
    make_run(runs / "mem-20/1", "mem-20", 1, signatures=lower)
    message = refusal(runs, "--out", out)
    assert "mem-20/1" in message and "tok:intl" in message and "tok:13a" in message
    edit(runs / "mem-20/1", signatures=SIGNATURES)
    report(runs, "--out", tmp_path / "fine")
    shutil.copytree(runs / "mem-20/1", runs / "copy")
    message = refusal(runs, "--out", out)
    assert "copy" in message and "mem-20/1" in message and "seed 1" in message
    assert not out.exists()


@pytest.mark.parametrize("key", ["data_sha256", "dictionary_sha256"])
def test_models_of_different_data_are_refused(tmp_path, key):
    make_run(tmp_path / "runs/baseline/1", "baseline", 1, **{key: "a1"})
    make_run(tmp_path / "runs/mem-5/1", "mem-5", 1, **{key: "b2"})
    message = refusal(tmp_path / "runs", "--out", tmp_path / "out")
    assert "baseline/1" in message and "mem-5/1" in message and "different data" in message


def test_runs_of_before_there_was_a_sum_of_the_dictionary(tmp_path):
    make_run(tmp_path / "runs/baseline/1", "baseline", 1)
    make_run(tmp_path / "runs/mem-5/1", "mem-5", 1, dictionary_sha256="b2")
    report(tmp_path / "runs", "--out", tmp_path / "out")
    assert "dictionary_sha256" not in (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize("model", ["\u00b2", "7" * 5000, "007", "\u0667"])
def test_names_of_odd_digits(tmp_path, model):
    make_run(tmp_path / "runs/1", "baseline", 1)
    make_run(tmp_path / "runs/2", model, 1)
    report(tmp_path / "runs", "--out", tmp_path / "out")
    assert (model, "BLEU", "trial") in rows(tmp_path / "out")


def test_models_that_differ_in_more_than_memory_are_named(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / f"runs/baseline/{seed}", "baseline", seed, tokens_per_update=1500)
        make_run(tmp_path / f"runs/mem-5/{seed}", "mem-5", seed, tokens_per_update=1600, threads=2)
    report(tmp_path / "runs", "--out", tmp_path / "out")
    told = (tmp_path / "out/report.md").read_text()
    assert "differ in `tokens_per_update`, not in memory alone: 1500: baseline; 1600: mem-5" in told
    assert "with other threads: compare no speeds" in told and "differ in `lr`" not in told


def test_parameters_that_are_not_trained_are_told_apart(runs, tmp_path):
    for seed in (1, 2, 3):
        edit(runs / f"mem-10/{seed}", parameters=1000000, trained_parameters=1280)
    report(runs, "--out", tmp_path / "out")
    assert "1,000,000 (trained: 1,280)" in (tmp_path / "out/report.md").read_text()
    assert rows(tmp_path / "out")["mem-10", "BLEU", "trial"]["parameters"] == "1000000"
