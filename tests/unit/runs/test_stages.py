"""Stages: what runs, is resumed, fails, or is stopped by a signal."""

import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from fairseq_mem_text.progress import quoted

from fairseq_mem import UserError
from fairseq_mem.runs import folder, jobs, stages
from fairseq_mem.runs.__main__ import split_stages
from fairseq_mem.runs.signals import StopOnSignal, Stopped
from fairseq_mem.runs.training import training_command


@pytest.fixture
def work(tmp_path):
    """The stages of an empty run, not entered yet."""
    with folder.locked(tmp_path) as lock:
        yield stages.Stages(tmp_path, "mem-5, seed 1", lock)


def test_a_command_is_shown_as_bash_shows_it():
    words = ["a b", "(0.9, 0.98)", "x,y", "{'memory': 1}", "", "#c", "~/d", "e=~#", "ü/–", "$!*?"]
    done = subprocess.run(
        ["bash", "-c", "printf '%q ' \"$@\"", "bash", *words],
        capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=True,
    )  # fmt: skip
    assert quoted(words) == done.stdout.rstrip()
    words += ["a\tb", "two\nlines"]
    assert shlex.split(quoted(words)) == words


def test_a_stage_is_counted_and_its_output_whole(work, tmp_path, capfd):
    with work, work.stage("score", "scoring"):
        (tmp_path / "began.score").write_text("0\n")  # long ago
        work.run_whole(["sh", "-c", "echo out; echo error >&2"], tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "out\nerror\n"
    assert folder.wall_seconds(tmp_path) > 1_700_000_000
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("began.*"))
    assert capfd.readouterr().out == (
        "== mem-5, seed 1: scoring\n+ sh -c echo\\ out\\;\\ echo\\ error\\ \\>\\&2\n"
    )


def test_a_failure_leaves_its_reason(work, tmp_path):
    (tmp_path / "failed.txt").write_text("of the attempt before\n")
    with pytest.raises(stages.RunFailed, match="sh failed: why"), work:
        assert not (tmp_path / "failed.txt").exists()
        with work.stage("score", "scoring"):
            work.run_whole(["sh", "-c", "echo so; echo why; echo; exit 3"], tmp_path / "out.txt")
    assert (tmp_path / "failed.txt").read_text() == "sh failed: why\n"
    assert not (tmp_path / "out.txt").exists() and (tmp_path / "seconds.score").exists()


def test_a_program_that_is_not_there_is_a_failure(work, tmp_path):
    with pytest.raises(FileNotFoundError), work:
        work.run(["no-such-program"])
    assert "no-such-program" in (tmp_path / "failed.txt").read_text()


def test_the_lock_is_held_while_a_command_lives(tmp_path):
    """Also when whoever began it was killed: nobody trains in its folder meanwhile."""
    run, child = tmp_path / "run", tmp_path / "child"
    script = f"""
import os
from pathlib import Path
from fairseq_mem.runs import folder, stages
with folder.locked(Path({str(run)!r})) as lock:
    def kill_us():
        if Path({str(child)!r}).exists():
            os.kill(os.getpid(), 9)
    command = ["sh", "-c", "echo $$ > {child}.new; mv {child}.new {child}; exec sleep 600"]
    stages.Stages(Path({str(run)!r}), "a run", lock).run(command, watch=kill_us)
"""
    killed = subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    assert killed.returncode == -9
    try:
        with pytest.raises(UserError, match="is being trained already"), folder.locked(run):
            pass
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)


def test_what_a_kill_left_in_the_middle_of_a_write(work, tmp_path):
    """Else it is the time of a stage, and damaged, or of two."""
    (tmp_path / "began.train.0123abcd.partial").write_text("")
    (tmp_path / "seconds.train.0123abcd.partial").write_text("100\n")
    with work, work.stage("score", "scoring"):
        pass
    assert folder.wall_seconds(tmp_path) == 0
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_command_and_all_that_it_started(work, tmp_path, number):
    children = tmp_path / "children"
    script = f"sleep 600 & echo $! $$ > {children}.new; mv {children}.new {children}; wait"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def when_begun():
        if children.exists():
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped), work, work.stage("train", "training"):
        work.run(["sh", "-c", script], watch=when_begun)
    for child in map(int, children.read_text().split()):
        deadline = time.monotonic() + 60
        while is_alive(child):
            assert time.monotonic() < deadline, "the child was not ended"
            time.sleep(0.05)
    assert (tmp_path / "seconds.train").exists() and not (tmp_path / "began.train").exists()
    assert not (tmp_path / "failed.txt").exists()  # being stopped is no failure
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers


def is_alive(process: int) -> bool:
    """Whether it runs; a zombie that nobody waits for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_what_must_not_be_cut_is_not():
    done = []
    with pytest.raises(Stopped), StopOnSignal() as signals:
        with signals.later():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # an impatient user
            done.append("all")
        done.append("more")
    assert done == ["all"]


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_lines_are_followed_as_they_are_written(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("old\n")
    follower = stages.Follower(log)
    with log.open("ab", buffering=0) as written:
        written.write(b"one\ntw")
        assert follower.lines() == ["one"]
        written.write(b"o\n\xff\n")
        assert follower.lines() == ["two", "�"]
    assert follower.lines() == []
    follower.close()


def test_a_training_goes_on_from_its_newest_checkpoint(tmp_path):
    command = ["fairseq-train", "data", "--finetune-from-model", "start.pt", "--seed", "1"]
    assert training_command(command, tmp_path) == command
    with zipfile.ZipFile(tmp_path / "checkpoint_1_2.pt", "w") as archive:
        archive.writestr("data", b"1")
    expected = [
        "fairseq-train",
        "data",
        "--seed",
        "1",
        "--restore-file",
        f"{tmp_path}/checkpoint_1_2.pt",
    ]
    assert training_command(command, tmp_path) == expected


def test_stages_on_a_command_line():
    words = ["translation", "run", ":::", "train", "a", "--b", "", ":::", "score", "c"]
    options, commands = split_stages(words)
    assert options == ["translation", "run"]
    assert commands == {"train": ["a", "--b", ""], "score": ["c"]}


# jobs


def write(path, text):
    return [sys.executable, "-c", f"import os; open({str(path)!r}, 'w').write({text})"]


@pytest.mark.parametrize(
    ("at_once", "gpus", "expected"),
    [
        (2, 4, ["0,1", "2,3"]),
        (3, 2, ["0", "1", "0"]),
        (2, 0, ["None", "None"]),
        (1, 4, ["None"]),
    ],
)
def test_gpus_are_shared_out(tmp_path, monkeypatch, at_once, gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = "str(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    some = [jobs.Job(str(n), write(tmp_path / str(n), seen), {}) for n in range(at_once)]
    assert jobs.run_jobs(some, at_once, gpus) == []
    assert [(tmp_path / str(n)).read_text() for n in range(at_once)] == expected


def test_cores_are_shared_out_and_what_the_user_set_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("GPUS", raising=False)
    text = "os.environ['OMP_NUM_THREADS'] + os.environ['GPUS'] + os.environ['SIZE']"
    job = jobs.Job("a", write(tmp_path / "out", text), {"SIZE": "s"})
    for threads, gpus, expected in ((None, None, "40s"), ("3", "2", "32s")):
        for name, value in (("OMP_NUM_THREADS", threads), ("GPUS", gpus)):
            monkeypatch.delenv(name, raising=False)
            if value:
                monkeypatch.setenv(name, value)
        assert jobs.run_jobs([job], 2, 0) == []
        assert (tmp_path / "out").read_text() == expected


def test_a_failing_job_is_named_and_stops_no_other(tmp_path):
    some = [
        jobs.Job("bad", ["false"], {}),
        jobs.Job("good", write(tmp_path / "out", "'x'"), {}),
        jobs.Job("worse", ["sh", "-c", "exit 7"], {}),
    ]
    assert jobs.run_jobs(some, 1, 0) == ["bad", "worse"]
    assert (tmp_path / "out").exists()


def test_a_signal_ends_all_jobs(tmp_path):
    begun, waiting = tmp_path / "a", f"while [ ! -s {tmp_path}/a ]; do sleep 0.1; done"
    scripts = [
        f"echo $$ > {begun}; exec sleep 600",
        f"echo $$ > {tmp_path}/b; {waiting}; kill {os.getpid()}; exec sleep 600",
        f"touch {tmp_path}/never",
    ]
    some = [jobs.Job(script, ["sh", "-c", script], {}) for script in scripts]
    with pytest.raises(Stopped):
        jobs.run_jobs(some, 2, 0)
    assert not is_alive(int((tmp_path / "a").read_text()))
    assert not is_alive(int((tmp_path / "b").read_text()))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bla"], "unknown option --bla; see --help"),
        (["-j", "2"], "unknown option -j; see --help"),
        (["base"], "unknown argument base; see --help"),
    ],
)
def test_slips_in_a_tables_options(words, message):
    with pytest.raises(UserError, match=message):
        jobs._table_options(words)
