"""The folder of a run: what is refused, and that nothing in it can stop the reader."""

import json
import os
import signal

import pytest
from fairseq_mem_text import files

from fairseq_mem import UserError
from fairseq_mem.runs import folder

SETTINGS = {"model": "mem-5", "size": "trial", "data": "bible", "seed": 1, "updates": 10}
RESULT = {"format": 1, **SETTINGS, "metrics": {"BLEU": {"value": 20.5, "better": "higher"}}}


@pytest.fixture
def run(tmp_path):
    folder.write_json(tmp_path / "settings.json", {"format": 1, **SETTINGS})
    folder.write_json(tmp_path / "result.json", RESULT)
    return tmp_path


@pytest.fixture(autouse=True)
def no_waiting():
    """Reading a FIFO that nobody writes would last for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def reason(run):
    return folder.read_run(run, "a run").reason


def test_a_whole_run_has_no_reason(run):
    assert reason(run) == ""
    assert folder.read_run(run, "a run").group == ("bible", "trial", 10)


def metric(value):
    return json.dumps(RESULT).replace("20.5", value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("result.json", '{"format": 1, "a": ' + "[" * 100_000, "nested too deeply"),
        ("result.json", metric("9" * 400), "no finite BLEU"),
        ("result.json", metric("9" * 5000), "is damaged"),
        ("result.json", metric("1e101"), "no finite BLEU"),
        ("result.json", metric("Infinity"), "no finite BLEU"),
        ("result.json", metric("true"), "no finite BLEU"),
        ("result.json", json.dumps({**RESULT, "wall_seconds": 10**400}), "wall_seconds 1000"),
        ("result.json", json.dumps({**RESULT, "trained_parameters": "x"}), "trained_parameters"),
        ("result.json", json.dumps({**RESULT, "label": "\ud800"}), "half a UTF-16 pair"),
        ("settings.json", json.dumps({"format": 1, **SETTINGS, "seed": 10**300}), "proper seed"),
        ("settings.json", " " * (files.LARGEST_FILE + 1), "bytes are too many"),
        ("failed.txt", "no\nmemory", "failed: no memory"),
        ("failed.txt", "", "no reason in failed.txt"),
    ],
)
def test_what_cannot_be_read_has_a_reason(run, name, text, expected):
    (run / name).write_text(text)
    found = reason(run)
    assert expected in found and "\n" not in found and len(found) < 400


@pytest.mark.parametrize("name", ["settings.json", "result.json", "failed.txt"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_has_a_reason(run, name, make):
    (run / name).unlink(missing_ok=True)
    make(run / name)
    assert "regular file" in reason(run) or "directory" in reason(run).lower()


def test_a_run_goes_on_only_with_its_settings(tmp_path):
    folder.begin_run(tmp_path, SETTINGS)
    folder.begin_run(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="holds a run with updates 10, not 20; set RUNS"):
        folder.begin_run(tmp_path, {**SETTINGS, "updates": 20})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"is damaged.* remove"):
        folder.begin_run(tmp_path, SETTINGS)


def test_a_run_that_began_with_an_earlier_version_goes_on(tmp_path):
    """Its settings tell no sum of the dictionary; where they do, another one is refused."""
    folder.begin_run(tmp_path, SETTINGS)
    folder.begin_run(tmp_path, {**SETTINGS, "dictionary_sha256": "a1"})
    (tmp_path / "settings.json").unlink()
    folder.begin_run(tmp_path, {**SETTINGS, "dictionary_sha256": "a1"})
    with pytest.raises(UserError, match="dictionary_sha256 a1, not b2"):
        folder.begin_run(tmp_path, {**SETTINGS, "dictionary_sha256": "b2"})


def test_seconds_add_up_over_interruptions_and_kills(tmp_path):
    (tmp_path / "seconds.train").write_text("100\n")
    (tmp_path / "began.train").write_text("5000\n")
    folder.end_stage(tmp_path, "train", 5020.9)
    assert folder.wall_seconds(tmp_path) == 120 and not (tmp_path / "began.train").exists()
    (tmp_path / "began.score").write_text("6000\n")
    for path in tmp_path.iterdir():
        os.utime(path, (6007, 6007))
    folder.end_killed_stages(tmp_path)
    assert folder.wall_seconds(tmp_path) == 127 and not (tmp_path / "began.score").exists()
    (tmp_path / "seconds.score").write_text("many")
    with pytest.raises(UserError, match=r"seconds.score is damaged; remove it"):
        folder.wall_seconds(tmp_path)


def test_a_folder_is_worked_on_by_one_at_a_time(tmp_path):
    run = tmp_path / "new" / "run"
    with folder.locked(run):
        with pytest.raises(UserError, match="is being trained already"), folder.locked(run):
            pass
    with folder.locked(run):
        pass
    (tmp_path / "file").write_text("")
    for place in ("file/run", "file"):
        with pytest.raises(UserError, match="set RUNS to a folder that can be written to"):
            with folder.locked(tmp_path / place):
                pass
