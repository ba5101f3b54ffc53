"""examples/algorithmic: answers are right, scores count them, commands are shown."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from importlib import import_module

import pytest
from helpers.commands import ROOT, programs

FOLDER = ROOT / "examples" / "algorithmic"
sys.path.insert(0, str(FOLDER))

cell, table, tasks = map(import_module, ("cell", "table", "tasks"))

ANSWERS = {
    tasks.copy: lambda source: source,
    tasks.reverse: lambda source: source[::-1],
    tasks.repeat_copy: lambda source: source[1:] * int(source[0]),
    tasks.recall: lambda source: [dict(zip(source[:-2:2], source[1:-2:2]))[source[-1]]],
    tasks.sort: sorted,
    tasks.majority: lambda source: [Counter(source).most_common(1)[0][0]],
    tasks.kept: lambda source: source[1:3],
}


@pytest.fixture(scope="module")
def made():
    return {name: tasks.pairs(name) for name in tasks.TASKS}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_answers_are_right_and_no_line_is_in_two_splits(made, name):
    task, splits = tasks.TASKS[name], made[name]
    for some in splits.values():
        assert all(ANSWERS[task.make](source) == target for source, target in some)
    assert [len(splits[split]) for split in ("train", "test")] == [task.train, task.test]
    if name == "recall-far":
        return
    sources = [" ".join(source) for some in splits.values() for source, _ in some]
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("name", [name for name, task in tasks.TASKS.items() if task.long])
def test_lengths_are_apart(made, name):
    """Sources of the long test are longer than any in training."""

    def lengths(split):
        return {len(source) for source, _ in made[name][split]}

    assert max(lengths("train")) < min(lengths("long"))
    assert max(lengths("test")) <= max(lengths("train"))


def test_the_older_examples_have_their_lines(made):
    """As their make_data.py wrote them when their figures were measured."""
    sums = {}
    for name in ("reversal", "recall-far"):
        lines = [" ".join([*source, "|", *target]) for source, target in made[name]["train"]]
        sums[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert sums == {"reversal": "0809501f0ae4fd54", "recall-far": "7e4e5146097c28a7"}


def test_files_are_written(tmp_path):
    tasks.write("copy", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{split}.{side}" for split in ("train", "valid", "test", "long") for side in ("src", "tgt")
    }
    tasks.write("sort-segments", tmp_path / "segments")
    line = (tmp_path / "segments" / "long").read_text().splitlines()[0].split()
    assert line[line.index("=") + 1 :] == sorted(line[: line.index("=")])


@pytest.mark.cli
def test_recall_over_more_words_than_in_training(tmp_path):
    """The same lines with other gaps; asked of a model that is there."""

    def recall(**settings):
        where = {"WORK": str(tmp_path), "VENV": "none", "PATH": programs(), "UPDATES": "1"}
        return subprocess.run(
            [ROOT / "examples/recall/run.sh", "gate"], env=os.environ | where | settings,
            capture_output=True, text=True,
        )  # fmt: skip

    refused = recall(DOTS="none")
    assert refused.returncode != 0 and "DOTS=none: give a whole number above 0" in refused.stderr
    done = recall(DOTS="30")
    assert done.returncode == 0, done.stderr
    assert (
        "of 1000 symbols recalled" in done.stdout and (tmp_path / "gate-1-1/test-30.txt").exists()
    )
    there, made = (
        (tmp_path / "text" / name).read_text().splitlines() for name in ("test", "test-30")
    )
    assert len(there) == len(made) == 500
    for line, longer in zip(there, made):
        assert longer == line.replace(" ." * 24, " ." * 30) != line


def test_answers_are_scored():
    output = "S-1\ta b\nH-1\t-0.5\tb a\nD-1\t-0.5\tb a\nH-0\t-0.1\ta c\n"
    assert cell.score_answers(output, [["a", "b"], ["b", "a"]]) == {"lines": 0.5, "words": 0.75}


def test_probabilities_are_scored():
    output = "0\ta [-9.0] = [-0.1] a [-0.1] </s> [0.0] b [-3.0] = [0.0]\n1\tb [-0.7]\n"
    found = cell.score_probabilities(output, [["a"], ["b"]], "=")
    assert found == pytest.approx({"lines": 0.5, "words": 0.5, "bits": 0.4 / math.log(2)})
    with pytest.raises(SystemExit, match="2 answers instead of 1"):
        cell.score_probabilities(output, [["a"]], "=")


def test_commands_are_shown_and_train_as_recipes_do():
    done = subprocess.run(
        [sys.executable, FOLDER / "cell.py", "copy-segments", "recurrent", "3", "--dry-run"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    commands = done.stdout.splitlines()
    assert [line.split()[1] for line in commands] == [
        "fairseq-preprocess", "fairseq-train", "fairseq-eval-lm", "fairseq-eval-lm",
    ]  # fmt: skip
    assert "--update-epoch-batch-itr True" in commands[1] and "--seed 3" in commands[1]
    assert "--memory-recurrence 5" in commands[1] and "--batch-size 32" in commands[1]
    assert "--cache-length 0" in commands[1]  # a cache would carry what memory shall carry


def test_cells_have_the_models_that_a_task_knows():
    wanted = table.cells(["copy", "copy-segments"], ["static", "recurrent"], [1, 2])
    assert wanted == [
        ("copy", "static", 1), ("copy", "static", 2), ("copy-segments", "static", 1),
        ("copy-segments", "static", 2), ("copy-segments", "recurrent", 1),
        ("copy-segments", "recurrent", 2),
    ]  # fmt: skip


def test_a_study_that_is_done_is_told_without_training(tmp_path):
    for model, lines in (("base", 0.5), ("memory", 1.0)):
        for seed in (1, 2):
            folder = tmp_path / "copy" / f"{model}-7-{seed}"
            folder.mkdir(parents=True)
            scores = {"test": {"lines": lines, "words": lines}, "long": {"lines": 0, "words": 0.1}}
            (folder / "result.json").write_text(json.dumps(
                {"task": "copy", "model": model, "seed": seed, "updates": 7, "scores": scores,
                 "versions": "none"}
            ))  # fmt: skip
    done = subprocess.run(
        [sys.executable, FOLDER / "table.py", "--tasks", "copy", "--models", "base", "memory",
         "--seeds", "1", "2", "--updates", "7", "--work", tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "4 cells, 4 of them done before" in done.stdout
    report = (tmp_path / "table.md").read_text()
    # plain tasks have no bits
    assert (
        "| copy | memory | 1, 2 | 100.0 ± 0.0 | 100.0 ± 0.0 |  | 0.0 ± 0.0 | 10.0 ± 0.0 |  |"
        in report
    )
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_segments_are_told_in_bits(tmp_path):
    folder = tmp_path / "copy-segments" / "base-7-1"
    folder.mkdir(parents=True)
    score = {"lines": 0.25, "words": 0.5, "bits": 2.345}
    (folder / "result.json").write_text(json.dumps(
        {"task": "copy-segments", "model": "base", "seed": 1, "updates": 7, "versions": "none",
         "scores": {"test": score, "long": score | {"bits": 3}}}
    ))  # fmt: skip
    subprocess.run(
        [sys.executable, FOLDER / "table.py", "--tasks", "copy-segments", "--models", "base",
         "--seeds", "1", "--updates", "7", "--work", tmp_path], check=True,
    )  # fmt: skip
    report = (tmp_path / "table.md").read_text()
    assert "| copy-segments | base | 1 | 25.0 | 50.0 | 2.35 | 25.0 | 50.0 | 3.00 |" in report


@pytest.mark.slow
def test_copying_is_learned(tmp_path):
    subprocess.run(
        [sys.executable, FOLDER / "table.py", "--tasks", "copy", "copy-segments", "--models",
         "memory", "--seeds", "1", "--work", tmp_path], check=True,
    )  # fmt: skip
    result = json.loads((tmp_path / "copy" / "memory-1500-1" / "result.json").read_text())
    assert result["scores"]["test"]["words"] > 0.9
