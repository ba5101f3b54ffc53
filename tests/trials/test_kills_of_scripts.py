"""preprocess.sh and the quickstart: killed with all they began, they end as if they were not."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import dying, kills
from helpers.commands import ROOT
from helpers.preprocessing import command, write_pair

from fairseq_mem.runs.checkpoints import NAME, is_whole

SITE = f"""
import sys
sys.path.append({str(Path(dying.__file__).parent)!r})
import dying
dying.watch_as_told()
"""
UPDATES = 6
# What the clock, or a path, makes differ; and what a kill leaves of files that were not finished.
NOT_COMPARED = (".log", ".partial", ".new", ".tmp", ".pt")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What Python reads first in every process that a script begins."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "raw"
    for name, count in (("train", 150), ("valid", 9), ("test", 9)):
        write_pair(folder, name, count)
    return folder


def script(site: Path, words: list[str], **variables: str) -> int:
    """Run a script as users run it."""
    path = f"{site}:{os.environ.get('PYTHONPATH', '')}"
    environment = {"PYTHON": sys.executable, "PYTHONPATH": path, **variables}
    return subprocess.run(words, env=os.environ | environment).returncode


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.suffix not in NOT_COMPARED
    }


def moments(chance: random.Random, whole: kills.Ended, count: int) -> list[kills.Moment]:
    """All die: a worker that is killed alone leaves fairseq's programs waiting for it."""
    found = [kills.some_moment(chance, whole) for _ in range(count)]
    return [moment._replace(everyone=True, size=None) for moment in found]


@pytest.fixture(scope="module")
def prepared(site, raw, tmp_path_factory) -> tuple[dict[str, bytes], kills.Ended]:
    out = tmp_path_factory.mktemp("prepared") / "data"
    ended = kills.run(lambda: script(site, command(raw, out)), out)
    assert ended.status == 0, ended.said
    return content(out), ended


@pytest.mark.tries(sample=0, soak=18)
def test_preprocess(seed, site, raw, prepared, tmp_path, record_property):
    """Whenever the settings are there, which say that the data is, it is, and all of it."""
    chance, out, killed = random.Random(seed), tmp_path / "data", 0
    expected, lasted = prepared
    for moment in moments(chance, lasted, chance.randint(1, 3)):
        ended = kills.run(lambda: script(site, command(raw, out)), out, moment)
        assert ended.killed or ended.status == 0, ended.said
        killed += ended.killed
        found = content(out)
        if "settings.txt" in found:
            made = {name: text for name, text in found.items() if not name.startswith("partial/")}
            assert made == expected
    record_property("preprocess.sh", killed)
    ended = kills.run(lambda: script(site, command(raw, out)), out)
    assert ended.status == 0, ended.said
    assert content(out) == expected
    shutil.rmtree(tmp_path)


def quickstart(site: Path, work: Path) -> int:
    run = str(ROOT / "examples/quickstart/run.sh")
    return script(site, [run], VENV="", WORK=str(work), UPDATES=str(UPDATES))


def outcome(work: Path) -> dict[str, bytes]:
    """Data, translations, and scores."""
    found = content(work)
    return {
        name: text
        for name, text in found.items()
        if "seconds." not in name and not NAME.fullmatch(Path(name).name) and "lock" not in name
    }


@pytest.fixture(scope="module")
def quickly(site, raw, tmp_path_factory) -> tuple[dict[str, bytes], kills.Ended]:
    work = tmp_path_factory.mktemp("quickly") / "work"
    shutil.copytree(raw, work / "raw")  # the verses are there already
    ended = kills.run(lambda: quickstart(site, work), work)
    assert ended.status == 0, ended.said
    return outcome(work), ended


@pytest.mark.tries(sample=0, soak=11)
def test_quickstart(seed, site, raw, quickly, tmp_path, record_property):
    chance, work, killed = random.Random(seed), tmp_path / "work", 0
    expected, lasted = quickly
    shutil.copytree(raw, work / "raw")
    for moment in moments(chance, lasted, 8):
        ended = kills.run(lambda: quickstart(site, work), work, moment)
        assert ended.killed or ended.status == 0, ended.said
        killed += ended.killed
        for path in work.glob("run-*/*.pt"):
            assert is_whole(path), path
        for name in ("generate.txt", "bleu.json"):
            for path in work.glob(f"run-*/{name}"):
                key = str(path.relative_to(work))
                assert name == "generate.txt" or path.read_bytes() == expected[key]
    record_property("quickstart", killed)
    ended = kills.run(lambda: quickstart(site, work), work)
    assert ended.status == 0, ended.said
    found = outcome(work)
    assert found.keys() == expected.keys()
    for name, text in expected.items():
        if not name.endswith("generate.txt"):  # it says how long it took
            assert found[name] == text, name
    shutil.rmtree(tmp_path)
