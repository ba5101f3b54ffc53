"""preprocess.sh: killed at any moment, it goes on; two runs do not mix; Ctrl-C leaves no part."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.commands import HANGS
from helpers.preprocessing import (
    STAGES,
    command,
    preprocess,
    refused,
    replace_line,
    write_pair,
)


@pytest.mark.cli
def test_stopped_while_moving_into_place(raw, tmp_path):
    """Of what was there before (--redo) some is still there when the run goes on."""
    out = tmp_path / "data"
    assert preprocess(raw, out).returncode == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    partial = out / "partial"
    (partial / "bin").mkdir(parents=True)
    for path in list(out.iterdir()):
        if path.name.startswith(("train", "valid", "test", "dict")):
            path.rename(partial / "bin" / path.name)
        elif path.name in ("code", "settings.txt"):
            path.rename(partial / path.name)
    shutil.copytree(out / "text", partial / "text")
    (partial / "complete").touch()
    (out / "text/old.txt").touch()
    (out / "code.en").write_text("of separate codes\n")
    done = preprocess(raw, out)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == whole
    assert not (out / "text/old.txt").exists() and not partial.exists()


@pytest.mark.cli
def test_continues_after_a_kill(raw, tmp_path, killed):
    out = tmp_path / "data"
    killed("open */partial/code.partial", raw, out)
    assert not (out / "settings.txt").exists()
    resumed = preprocess(raw, out)
    assert resumed.returncode == 0, resumed.stderr
    assert "Continuing an unfinished run" in resumed.stdout
    assert "partial/text/train\n" not in resumed.stdout  # not tokenised again

    straight = tmp_path / "straight"
    assert preprocess(raw, straight).returncode == 0
    for path in straight.rglob("*"):
        if path.is_file() and path.name != "preprocess.log":
            assert (out / path.relative_to(straight)).read_bytes() == path.read_bytes(), path


# As sitecustomize.py: what a process does to files is told to it first, and one thing that looks
# like $KILL_AT it does not survive. What shutil.rmtree removes is told too, by name.
KILLER = """
import os, signal, sys
from fnmatch import fnmatch

def hook(event, arguments):
    if event in ("open", "os.remove", "os.rename", "shutil.rmtree"):
        if fnmatch(" ".join(map(str, (event, *arguments[:2]))), os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A function that runs preprocess.sh until something that looks like a pattern kills it."""
    folder = tmp_path_factory.mktemp("killer")
    (folder / "sitecustomize.py").write_text(KILLER)

    def run(pattern: str, *arguments: object) -> None:
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}",
            "KILL_AT": f"{pattern} *",
        }
        done = subprocess.run(command(*arguments), env=environment, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr

    return run


def data_of(out: Path) -> dict[str, bytes]:
    """What is in the folder; its folders of text too."""
    assert not (out / "partial").exists()
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


class Redo(NamedTuple):
    """Data was there, other data is made, and nothing of it is in its place yet."""

    raw: Path
    out: Path
    expected: dict[str, bytes]


@pytest.fixture(scope="module")
def redo(tmp_path_factory, killed):
    folder = tmp_path_factory.mktemp("redo")
    for name, count in (("train", 100), ("valid", 9), ("test", 9)):
        write_pair(folder / "raw", name, count)
    out, new = folder / "data", folder / "new"
    assert preprocess(folder / "raw", out).returncode == 0
    replace_line(folder / "raw/train.de", 3, "Etwas ganz anderes steht hier.")
    assert preprocess(folder / "raw", new).returncode == 0
    killed("os.remove */data/settings.txt", folder / "raw", out, "--redo")
    return Redo(folder / "raw", out, data_of(new))


@pytest.mark.cli
@pytest.mark.parametrize(
    "moment",
    [
        "os.remove */data/settings.txt",  # what is there is removed ...
        "shutil.rmtree */data/text",
        "os.remove valid.bpe.de",  # some of the text is gone
        "os.rename */partial/bin/*.bin",  # ... and what is new comes in its place, file by file ...
        "os.rename */partial/text",
        "os.rename */partial/settings.txt",  # ... the settings last
        "shutil.rmtree */data/partial",
        "os.remove fairseq.log",
    ],
)
def test_redo_after_a_kill_at_any_moment(tmp_path, redo, killed, moment):
    out = tmp_path / "data"
    shutil.copytree(redo.out, out)
    killed(moment, redo.raw, out, "--redo")
    if not (out / "settings.txt").exists():  # without --redo, too
        shutil.copytree(out, tmp_path / "copy")
        done = preprocess(redo.raw, tmp_path / "copy")
        assert done.returncode == 0, done.stderr
        assert data_of(tmp_path / "copy") == redo.expected
    done = preprocess(redo.raw, out, "--redo")
    assert done.returncode == 0, done.stderr
    assert data_of(out) == redo.expected


@pytest.mark.cli
@pytest.mark.parametrize("moment", ["os.remove */partial/settings.txt", "os.remove valid.bpe.de"])
def test_a_kill_while_another_run_is_discarded(tmp_path, redo, killed, moment):
    """Then the first one is asked for again: nothing of it may pass for finished."""
    out = tmp_path / "data"
    shutil.copytree(redo.out, out)
    killed(moment, redo.raw, out, "--redo", "--bpe", "50")
    done = preprocess(redo.raw, out, "--redo")
    assert done.returncode == 0, done.stderr
    assert data_of(out) == redo.expected


def test_another_run_at_work_is_left_alone(raw, tmp_path):
    """Also by one with other options."""
    partial = tmp_path / "data/partial"
    (partial / "text").mkdir(parents=True)
    (partial / "settings.txt").write_text("bpe 7\n")
    with open(partial / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(preprocess(raw, tmp_path / "data"), "another preprocess.sh is working")
    assert (partial / "settings.txt").read_text() == "bpe 7\n"


@pytest.mark.cli
def test_unfinished_run_with_other_options_is_discarded(raw, tmp_path):
    out = tmp_path / "data"
    (out / "partial/text").mkdir(parents=True)
    (out / "partial/settings.txt").write_text("bpe 7\n")
    (out / "partial/text/train.counts").write_text("stale\n")
    done = preprocess(raw, out)
    assert done.returncode == 0, done.stderr
    assert "made with bpe 7" in done.stdout and "is discarded" in done.stdout
    assert "stale" not in (out / "text/train.counts").read_text()


def heed_ctrl_c() -> None:
    """Tests that run in the background ignore it, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_no_partial_file(tmp_path):
    prefix = write_pair(tmp_path, "train", 200_000)
    process = subprocess.Popen(
        [*STAGES, "tokenize", "--source-lang", "de", "--target-lang", "en",
         "--workers", "2", f"{prefix}.de", f"{prefix}.en", tmp_path / "tok"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    partial = tmp_path / "tok.de.partial"
    while not (partial.exists() and partial.stat().st_size):  # the workers are at work
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].endswith("run the same command again to continue")
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("tok*"))
