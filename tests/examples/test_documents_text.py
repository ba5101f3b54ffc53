"""examples/documents with real text: what becomes of pages, and models from there to a report."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT, programs
from helpers.finished_runs import make_run

from examples.documents import context_table, texts

FOLDER = ROOT / "examples" / "documents"
PAGE = """<html><body><h1 id="hd_id1">{}</h1><p class="howto">Open</p>
<div><p id="par_id2" class="x"><span>{}</span> <a href="a">{}</a>.</p></div>
<p id="par_id3">=A1+B1</p><p id="par_id4">{}<br>{}</p><p id="par_id1">{}</p></body></html>"""


def test_paragraphs_of_both_pages_are_paired_by_name():
    german = PAGE.format("Zeile", "Ändert die", "Höhe", "Eins", "zwei", "Nur deutsch &amp; hier")
    english = PAGE.format("Row", "Changes the", "height", "One", "two", "x").replace(
        '<p id="par_id1">x</p>', '<p id="par_id9">English alone</p>'
    )
    assert texts.paired(german, english) == [
        ("Zeile", "Row"), ("Ändert die Höhe.", "Changes the height."), ("Eins zwei", "One two"),
    ]  # fmt: skip


def test_what_is_held_out_is_not_in_training(monkeypatch):
    monkeypatch.setattr(texts, "HELD_OUT", {"test": 1, "valid": 1})
    often, other = ("Enter", "Press"), ("anders", "other")
    documents = [
        [("a", "b")], [("c", "d")], [("a", "x"), often], [("y", "d")], *4 * [[often, other]]
    ]  # fmt: skip
    splits = texts.split_pages(documents)
    assert splits["test"] == [[("a", "b")]] and splits["valid"] == [[("c", "d")]]
    # a pair three times; a document of which nothing is left is none
    assert splits["train"] == [[often], [often, other], [often, other], [other]]


def test_documents_are_written_with_empty_lines_and_a_reference_without(tmp_path):
    splits = {
        "test": [[("a", "b"), ("c", "d")], [("e", "f")]],
        "valid": [],
        "train": [[("g", "h")]],
    }
    texts.write(splits, tmp_path / "raw")
    assert (tmp_path / "raw/test.de").read_text() == "a\nc\n\ne\n"
    assert (tmp_path / "raw/reference.en").read_text() == "b\nd\nf\n"
    assert sorted(os.listdir(tmp_path)) == ["raw"]


def test_without_apt_the_help_is_refused_in_one_line(tmp_path):
    """As on a machine of another kind."""
    shim = tmp_path / "bin"
    shim.mkdir()
    done = subprocess.run(
        [sys.executable, FOLDER / "texts.py", "help", tmp_path, tmp_path / "raw"],
        capture_output=True, text=True,
        env={**os.environ, "PATH": str(shim), "PYTHONPATH": f"{ROOT}:{ROOT / 'serve'}"},
    )  # fmt: skip
    assert done.returncode == 1 and not (tmp_path / "raw").exists()
    assert len(done.stderr.splitlines()) == 1 and "there is no apt-get here" in done.stderr


def test_what_context_is_worth_over_seeds(tmp_path, capsys):
    """Means, intervals over seeds, and how often the interval over documents lies off zero."""

    def finished(model: str, seed: int, first: float, later: float, other: list[float]) -> None:
        run = make_run(tmp_path / f"runs/{model}-{seed}", model, seed)
        rows = [
            {"places": places, "losses": {"carried": loss},
             "differences": {"reset": [0.01, -0.01, 0.03], "other": other}}
            for places, loss in (("1", first), ("2 on", later), ("all", 9.0))
        ]  # fmt: skip
        (run / "context.json").write_text(json.dumps({"rows": rows}))
        (run / "terms.txt").write_text(
            "test.en: 80.0 % (8 of 10; 12 repeated terms)\n"
            f"words.txt: {70 + seed}.0 % (7 of 10; 12 repeated terms)\n"
        )

    for seed in (1, 2, 3):
        finished("sentence", seed, 2.0, 3.0 + seed, [0.0, 0.0, 0.0])
        finished("gate-10", seed, 2.5, 2.9 + seed + 0.01 * seed, [0.5, 0.4, 0.6])
        finished("gate-4", seed, 2.0, 3.0 + seed, [-0.5, -0.6, 0.1 * seed - 0.15])
    make_run(tmp_path / "runs/fresh-1", "fresh", 1)  # without context.json
    context_table.main(tmp_path / "runs", tmp_path / "context.md")
    text = (tmp_path / "context.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    sentence, gate_4, gate_10 = (row for row in text.splitlines() if " | 3 | " in row)
    assert sentence == (
        "| sentence | 3 | 2.0000 | 5.0000 | – | +0.0100 (0 / 0) | +0.0000 (0 / 0) | 72.0 % |"
    )
    assert "| +0.0000 (+0.0000 to +0.0000) |" in gate_4 and "| −0.5000 (0 / 1) |" in gate_4
    # Student's t with two degrees of freedom: 4.303 times 0.01 / sqrt(3)
    assert "| 2.5000 | 4.9200 | −0.0800 (−0.1048 to −0.0552) |" in gate_10
    assert "+0.5000 (3 / 0)" in gate_10 and "in the reference 80.0 %" in text


# ---------------------------------------------------------------- the scripts


def script(name: str, *arguments: object, check: bool = True, **variables: object):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GPUS": "0", "VENV": "none"}
    environment |= {"PATH": programs(), **{key: str(value) for key, value in variables.items()}}
    done = subprocess.run(
        [FOLDER / name, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """WORK/TEXT/SOURCE-TARGET of prepare.sh, of numbers."""
    words = "eins zwei drei vier fünf sechs".split(), "one two three four five six".split()

    def document(number: int) -> list[tuple[str, str]]:
        length = 2 + number % 4
        rows = [[(number * 7 + i * j) % 6 for j in range(3)] for i in range(length)]
        sides = [
            [" ".join(side[n] for n in row) + f" {number} ." for row in rows] for side in words
        ]
        return list(zip(*sides, strict=True))

    work = tmp_path_factory.mktemp("work")
    splits = {"train": range(40), "valid": range(50, 54), "test": range(60, 64)}
    (work / "help").mkdir()
    texts.write(
        {name: [document(n) for n in numbers] for name, numbers in splits.items()},
        work / "help/raw",
    )
    script("prepare.sh", "help", "en", "de", WORK=work, BPE=30)
    return work / "help/en-de"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prepare.sh", ("news", "de", "en"), "there is no text news"),
        ("prepare.sh", ("help", "de", "fr"), "give de en, or en de"),
        ("run.sh", ("gate-4",), "give a model and a seed"),
        ("run.sh", ("gate", 1), "there is no model gate"),
        ("run.sh", ("gate-4", "x"), "give a whole number"),
        ("run.sh", ("gate-4", 1), "set DATA"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, arguments, message):
    done = script(name, *arguments, check=False, DATA=tmp_path, WORK=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr


def test_models_differ_in_their_context_alone(data, tmp_path):
    def trained(model: str) -> list[str]:
        shown = script("run.sh", model, 1, DATA=data, RUNS=tmp_path, DRY_RUN=1).stdout
        first, second = (line for line in shown.splitlines() if "fairseq-train" in line)
        assert "--task" not in first and "--finetune-from-model" not in first
        assert f"--finetune-from-model {tmp_path}/first/trial/" in second
        return second.replace(f"/{model}/", "/MODEL/").split()

    fresh = trained("fresh")
    for model, flags in {
        "plain-4": ["--memory-recurrence", "4", "--memory-carry", "plain", "--read-before", "0"],
        "gate-4-before": [
            "--memory-recurrence", "4", "--memory-carry", "gate", "--read-before", "8",
        ],
    }.items():  # fmt: skip
        assert [word for word in trained(model) if word not in flags] == [
            word for word in fresh if word not in flags
        ]
    sentence = trained("sentence")
    assert [w for w in trained("context-3") if w not in ("--context-sentences", "3")] == [
        w for w in sentence if w != "3"
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.cli
def test_a_table_of_documents(data, tmp_path):
    """Two models that share their first stage, and one with another; then nothing is done twice."""
    asked = {"DATA": data, "RUNS": tmp_path, "FIRST": 4, "UPDATES": 4}
    words = ("table.sh", "--models", "sentence", "fresh", "gate-2", "--seeds", 1, "--jobs", 2)
    script(*words, **asked)
    results = {
        name: json.loads((tmp_path / f"trial/{name}/seed-1/result.json").read_text())
        for name in ("sentence", "fresh", "gate-2")
    }
    added = results["gate-2"]["parameters"] - results["fresh"]["parameters"]
    assert added == 2 * 128 * 128 + 128  # W [previous; output] and its bias
    assert sorted(os.listdir(tmp_path / "first/trial")) == ["baseline", "mem-10"]
    run = tmp_path / "trial/gate-2/seed-1"
    context = json.loads((run / "context.json").read_text())
    assert context
    count = (data.parent / "raw/reference.de").read_text().count("\n")
    assert (run / "words.txt").read_text().count("\n") == count
    assert "repeated terms" in (run / "terms.txt").read_text()
    assert "gate-2" in (tmp_path / "report/report.md").read_text()
    rows = (tmp_path / "report/context.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows if " | 1 | " in row] == [
        "| sentence", "| fresh", "| gate-2",
    ]  # fmt: skip
    before = (run / "model.pt").stat().st_mtime_ns
    again = script(*words, **asked)
    assert "+ fairseq" not in again.stdout and (run / "model.pt").stat().st_mtime_ns == before
    shutil.rmtree(tmp_path)
