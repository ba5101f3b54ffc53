"""preprocess.sh: the libraries' own bytes, nothing half-written, nothing done twice."""

import errno
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
    CORPUS,
    SCRIPT,
    command,
    corpus,
    last_line,
    library,
    mounted,
    preprocess,
    refused,
    run_corpus,
    small_files,
    write_pair,
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of small raw text: train, valid and test."""
    for name, count in (("train", 300), ("valid", 20), ("test", 20)):
        write_pair(tmp_path / "raw", name, count)
    return tmp_path / "raw"


# ---------------------------------------------------------------- the same bytes


def test_equals_the_libraries_own_commands(tmp_path):
    count = 2 * corpus.CHUNK_LINES + 345  # several chunks, the last one not full
    prefix = write_pair(tmp_path, "train", count)
    # Windows line ends, and no newline at the very end.
    german = Path(f"{prefix}.de").read_bytes().replace(b"Ende\n", b"Ende\r\n").rstrip(b"\n")
    Path(f"{prefix}.de").write_bytes(german)
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--workers", 2,
        f"{prefix}.de", f"{prefix}.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for language in ("de", "en"):
        expected = library(
            "sacremoses", "-l", language, "-j", 1, "-q", "normalize", "tokenize", "-a",
            text=Path(f"{prefix}.{language}").read_bytes(),
        )  # fmt: skip
        tokenized = (tmp_path / f"tok.{language}").read_bytes()
        assert tokenized == expected
        assert tokenized.count(b"\n") == count

    files = [tmp_path / "tok.de", tmp_path / "tok.en"]
    run_corpus("learn-bpe", "--merges", 200, "--workers", 2, "--output", tmp_path / "code", *files)
    library(
        "subword-nmt", "learn-joint-bpe-and-vocab", "-s", 200, "-o", tmp_path / "expected_code",
        "--write-vocabulary", tmp_path / "v1", tmp_path / "v2", "-i", *files, text=b"",
    )  # fmt: skip
    assert (tmp_path / "code").read_bytes() == (tmp_path / "expected_code").read_bytes()

    for file in files:
        done = run_corpus(
            "apply-bpe", "--codes", tmp_path / "code", "--workers", 2, file, f"{file}.bpe"
        )
        assert done.returncode == 0, done.stderr
        expected = library(
            "subword-nmt", "apply-bpe", "-c", tmp_path / "code", text=file.read_bytes()
        )
        assert Path(f"{file}.bpe").read_bytes() == expected


def test_a_byte_order_mark_is_no_word(tmp_path):
    """At the start of each file; inside a text it is a character like others."""
    texts = {"de": "eins\n\ufeffzwei drei\n", "en": "one\ntwo\n"}
    for language, text in texts.items():
        (tmp_path / f"raw.{language}").write_text("\ufeff" + text, encoding="utf-8")
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en",
        tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tok.de").read_text(encoding="utf-8") == "eins\n\ufeff zwei drei\n"
    assert (tmp_path / "tok.en").read_text(encoding="utf-8") == "one\ntwo\n"


def test_only_a_few_chunks_are_in_memory():
    taken = []

    class Pool:
        def submit(self, work, chunk):
            class Done:
                def result(self):
                    return work(chunk)

            return Done()

    def chunks():
        for number in range(100):
            taken.append(number)
            yield number

    for given, number in enumerate(corpus.in_order(Pool(), lambda chunk: chunk, chunks(), 2)):
        assert number == given
        assert len(taken) - given <= 8


def test_cleaning_counts_each_rule(tmp_path):
    pairs = [
        ("ein Haus", "a house"),
        ("", "nothing"),
        ("a b c d e f", "a b c d e f"),
        ("a b c d", "a b"),
        ("a b c", "a b"),
    ]
    for column, language in enumerate(("de", "en")):
        lines = "".join(pair[column] + "\n" for pair in pairs)
        (tmp_path / f"raw.{language}").write_text(lines)
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--clean", "--max-words", 5,
        tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tok.de").read_text() == "ein Haus\na b c\n"
    assert (tmp_path / "tok.en").read_text() == "a house\na b\n"
    assert (tmp_path / "tok.counts").read_text() == (
        "5 pairs read, 2 kept; dropped: 1 longer than 5, 1 of a length ratio above 1.5, "
        "1 shorter than 1\n"
    )


def test_nothing_left_after_cleaning(tmp_path):
    (tmp_path / "raw.de").write_text("a b c d\n")
    (tmp_path / "raw.en").write_text("a\n")
    done = run_corpus(
        "tokenize", "--source-lang", "de", "--target-lang", "en", "--clean",
        tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok",
    )  # fmt: skip
    refused(done, "no pair is left of 1", "widen the limits")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.de", "raw.en"]


# ---------------------------------------------------------------- the whole script


@pytest.mark.cli
def test_data_is_complete_and_made_once(raw, tmp_path):
    out = tmp_path / "data with a space"
    replace_line(raw / "valid.de", 2, "fu\u0308r wen?")
    done = preprocess(raw, out)
    assert done.returncode == 0, done.stderr
    assert "train: 300 pairs read, 300 kept" in done.stdout
    assert "+ fairseq-preprocess" in done.stdout  # commands are shown
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            assert (out / f"{split}.de-en.{language}.bin").stat().st_size > 0
    # Validation and test text stay line by line.
    assert (out / "text/test.bpe.en").read_text().count("\n") == 20
    assert (out / "dict.de.txt").read_bytes() == (out / "dict.en.txt").read_bytes()
    assert not (out / "partial").exists()

    settings = (out / "settings.txt").read_text()
    assert "\nnfc yes\n" in settings
    assert (
        "für" in (out / "text/valid.de").read_text() and "u\u0308" in (raw / "valid.de").read_text()
    )
    refused(preprocess(raw, out, "--no-nfc"), "other options or text", "--redo")
    # Data of before characters were composed stays as it is.
    (out / "settings.txt").write_text(settings.replace("nfc yes\n", ""))
    older = preprocess(raw, out)
    assert older.returncode == 0 and "made before characters were composed" in older.stdout
    assert "nothing to do" in preprocess(raw, out, "--no-nfc").stdout
    assert "nfc" not in (out / "settings.txt").read_text()
    (out / "settings.txt").write_text(settings)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = preprocess(raw, out)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    refused(preprocess(raw, out, "--bpe", 50), "other options or text", "--redo")
    with open(raw / "train.de", "a") as german, open(raw / "train.en", "a") as english:
        german.write("Noch ein Satz.\n")
        english.write("One more sentence.\n")
    changed = preprocess(raw, out)
    refused(changed, "other options or text", "--redo")
    assert "asked for train.de" in changed.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    redone = preprocess(raw, out, "--redo")
    assert redone.returncode == 0, redone.stderr
    assert "301 kept" in (out / "text/train.counts").read_text()


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
def test_fairseq_treats_raw_text_as_the_training_text_was(raw, tmp_path):
    from fairseq.data.encoders.moses_tokenizer import MosesTokenizer, MosesTokenizerConfig
    from fairseq.data.encoders.subword_nmt_bpe import SubwordNMTBPE, SubwordNMTBPEConfig

    out = tmp_path / "data"
    done = preprocess(raw, out, "--no-normalize", "--separate")
    assert done.returncode == 0, done.stderr
    moses = MosesTokenizer(MosesTokenizerConfig(source_lang="de", target_lang="en"))
    bpe = SubwordNMTBPE(SubwordNMTBPEConfig(bpe_codes=str(out / "code")))
    raw_lines = (raw / "test.de").read_text(encoding="utf-8").split("\n")[:-1]
    prepared = (out / "text/test.bpe.de").read_text(encoding="utf-8").split("\n")[:-1]
    assert [bpe.encode(moses.encode(line)) for line in raw_lines] == prepared
    # --separate: each language has its own dictionary.
    assert (out / "dict.de.txt").read_bytes() != (out / "dict.en.txt").read_bytes()


@pytest.mark.cli
def test_continues_after_a_kill(raw, tmp_path):
    out = tmp_path / "data"
    stalled = tmp_path / "stalled"
    slow = tmp_path / "python"  # gets no further than to the BPE
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *" learn-bpe "*) touch "{stalled}"; exec sleep 3600 ;; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    slow.chmod(0o755)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command(raw, out),
        env={**os.environ, "PYTHON": str(slow), "PATH": programs},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not stalled.exists():
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
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


KILLER = """#!/usr/bin/env bash
# Stands for the command of its name; one call that looks like $KILL_AT does half of its work (it
# removes half of what is in a folder) and takes the script that called it along.
name=$(basename "$0")
if [[ "$name $*" == $KILL_AT ]]; then
    for path in "$@"; do
        if [ "$name" != mv ] && [ -d "$path" ]; then
            ls -r "$path" | head -n $(($(ls "$path" | wc -l) / 2)) |
                while read -r inside; do command -p rm -rf "$path/$inside"; done
        fi
    done
    kill -KILL $PPID
    exit 1
fi
exec $(PATH=/usr/bin:/bin type -P "$name") "$@"
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A function that runs preprocess.sh until a call that looks like a pattern kills it."""
    folder = tmp_path_factory.mktemp("killer")
    for name in ("rm", "mv", "find"):
        (folder / name).write_text(KILLER)
        (folder / name).chmod(0o755)

    def run(pattern: str, *arguments: object) -> None:
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "KILL_AT": pattern,
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
    killed("rm -f */data/settings.txt", folder / "raw", out, "--redo")
    return Redo(folder / "raw", out, data_of(new))


@pytest.mark.cli
@pytest.mark.parametrize(
    "moment",
    [
        "rm -f */data/settings.txt",  # what is there is removed ...
        "rm -rf */data/text *",
        "mv -f *.bin */data/",  # ... and what is new comes in its place, file by file ...
        "mv -f */partial/text */data/",
        "mv */settings.txt */data/settings.txt",  # ... the settings last
        "rm -rf */data/partial",
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
@pytest.mark.parametrize("moment", ["rm -f */partial/settings.txt", "find */partial *"])
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
        [sys.executable, CORPUS, "tokenize", "--source-lang", "de", "--target-lang", "en",
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


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_missing_file(raw, tmp_path, split):
    (raw / f"{split}.en").unlink()
    refused(preprocess(raw, tmp_path / "data"), f"{split}.en", "No such file", "check the prefix")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_empty_file(raw, tmp_path, split):
    (raw / f"{split}.de").write_bytes(b"")
    refused(preprocess(raw, tmp_path / "data"), f"{split}.de is empty", "one sentence a line")
    assert not (tmp_path / "data").exists()


def test_unequal_line_counts(raw, tmp_path):
    with open(raw / "valid.en", "a") as file:
        file.write("One line too many.\n")
    refused(
        preprocess(raw, tmp_path / "data"),
        "unequal numbers of lines", "valid.de has 20", "valid.en has 21",
    )  # fmt: skip
    assert not (tmp_path / "data").exists()


def test_invalid_utf8_names_the_line(raw, tmp_path):
    lines = (raw / "train.de").read_bytes().splitlines(keepends=True)
    lines[122] = "Größe\n".encode("latin-1")
    (raw / "train.de").write_bytes(b"".join(lines))
    refused(preprocess(raw, tmp_path / "data"), "train.de, line 123", "not valid UTF-8", "iconv")
    assert not (tmp_path / "data").exists()


def test_invalid_utf8_far_into_the_file(tmp_path):
    line = b"a line of forty characters, more or less\n"
    (tmp_path / "far").write_bytes(line * 60_000 + b"\xff\n" + line)
    refused(run_corpus("check", tmp_path / "far"), "line 60001", "0xff")


def test_carriage_return_inside_a_kept_line(raw, tmp_path):
    lines = (raw / "test.en").read_bytes().splitlines(keepends=True)
    lines[4] = b"one\rtwo\n"
    (raw / "test.en").write_bytes(b"".join(lines))
    refused(preprocess(raw, tmp_path / "data"), "test.en, line 5", "carriage return")


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[number - 1] = line
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.cli
def test_very_long_training_line_is_dropped_and_counted(raw, tmp_path):
    replace_line(raw / "train.de", 7, "wort " * 10_000)
    out = tmp_path / "data"
    done = preprocess(raw, out)
    assert done.returncode == 0, done.stderr
    assert (out / "text/train.counts").read_text() == (
        "300 pairs read, 299 kept; dropped: 1 longer than 250\n"
    )


@pytest.mark.parametrize("split", ["valid", "test"])
def test_very_long_kept_line_is_refused(raw, tmp_path, split):
    replace_line(raw / f"{split}.de", 7, "wort " * 10_000)
    refused(
        preprocess(raw, tmp_path / "data"),
        f"{split}.de, line 7", "10,000 words", "takes 1,023", "--max-positions",
    )  # fmt: skip
    assert not (tmp_path / "data").exists()


def test_kept_line_that_bpe_makes_too_long_is_refused(raw, tmp_path):
    # Few words, but many BPE tokens.
    replace_line(raw / "valid.de", 3, " ".join(["xyzzyxyzzyxyzzyxyzzy"] * 40))
    refused(
        preprocess(raw, tmp_path / "data", "--max-positions", 200),
        "valid.de, line 3", "BPE tokens", "takes 199",
    )  # fmt: skip
    assert not (tmp_path / "data/settings.txt").exists()


# ---------------------------------------------------------------- bad folders, full disks


def test_folder_of_foreign_files(raw, tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    refused(preprocess(raw, out), "didn't make", "choose another --out")
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "partial").mkdir()
    (out / "thesis.tex").rename(out / "partial/thesis.tex")
    refused(preprocess(raw, out), "didn't make", "choose another --out")
    assert (out / "partial/thesis.tex").read_text() == "mine"


def test_read_only_folder(raw, tmp_path):
    folder = tmp_path / "sealed"
    if os.geteuid() == 0:  # root may write whatever the mode says
        mounted(folder, "ro")
    else:
        folder.mkdir(mode=0o555)
    try:
        refused(preprocess(raw, folder / "data"), "cannot make", "choose an --out")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(folder)], check=True)


def test_folder_that_cannot_be_made(raw, tmp_path):
    (tmp_path / "file").write_text("")
    refused(preprocess(raw, tmp_path / "file/data"), "cannot make", "choose an --out")


def test_full_disk_while_tokenising(raw, tmp_path):
    assert preprocess(raw, tmp_path / "data", preexec_fn=small_files).returncode != 0
    text = tmp_path / "data/partial/text"  # of a run that ended before it tokenised
    (text / "train.en.partial").symlink_to("/dev/full")
    refused(preprocess(raw, tmp_path / "data"), "No space left on device", "free some space")
    assert not list(text.iterdir())


@pytest.mark.cli
@pytest.mark.parametrize("kib", [120, 360])
def test_full_disk_at_any_stage(raw, tmp_path, kib):
    """However much fits, the run fails with a clear line and ends well with more space."""
    folder = tmp_path / "small"
    mounted(folder, f"size={kib}k")
    try:
        done = preprocess(raw, folder / "data")
        assert done.returncode != 0
        assert "free" in last_line(done) or "full" in last_line(done), done.stderr
        assert not (folder / "data/settings.txt").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        resumed = preprocess(raw, folder / "data")
        assert resumed.returncode == 0, resumed.stderr
        assert "Continuing an unfinished run" in resumed.stdout
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_file_that_grows_too_large(raw, tmp_path):
    done = preprocess(raw, tmp_path / "data", preexec_fn=small_files)
    refused(done, "cannot write", "File too large")


def test_written_removes_what_it_began(tmp_path):
    with pytest.raises(corpus.CorpusError, match="free some space and run again"):
        with corpus.written(str(tmp_path / "a"), str(tmp_path / "b")) as (a, _):
            a.write(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_verify_notices_lost_data(tmp_path):
    (tmp_path / "text").write_text("a b\nc\n")
    sizes = (3).to_bytes(4, "little") + (2).to_bytes(4, "little")
    index = corpus.INDEX_HEADER.pack(b"MMIDIDX\0\0", 1, 8, 2) + sizes + bytes(16)
    (tmp_path / "data.idx").write_bytes(index)
    (tmp_path / "data.bin").write_bytes(bytes(10))
    assert run_corpus("verify", tmp_path / "text", tmp_path / "data").returncode == 0
    (tmp_path / "data.bin").write_bytes(bytes(8))
    refused(run_corpus("verify", tmp_path / "text", tmp_path / "data"), "don't hold the 2 lines")
    (tmp_path / "data.idx").write_bytes(index[:20])
    refused(run_corpus("verify", tmp_path / "text", tmp_path / "data"), "is the disk full?")


# ---------------------------------------------------------------- options


def test_help_names_every_option():
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for line in SCRIPT.read_text().splitlines():
        option = line.strip().split(")")[0]
        if option.startswith("--") and ") " in line:
            assert option in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bpe", "0"], "--bpe 0: give a whole number above 0"),
        (["--max-ratio", "x"], "--max-ratio x: give a number"),
        (["--target", "de"], "give two languages"),
        (["--out", "a:b"], "with , or : in its name"),
        (["--frobnicate", "1"], "unknown option --frobnicate"),
        (["--bpe"], "--bpe needs a value"),
        (["--train", ""], "--train is missing"),
    ],
)
def test_options_are_checked(raw, tmp_path, options, says):
    refused(preprocess(raw, tmp_path / "data", *options), says)


def test_python_without_the_libraries(raw, tmp_path):
    done = subprocess.run(
        command(raw, tmp_path / "data"),
        env={**os.environ, "PYTHON": "/nowhere/python"},
        capture_output=True,
        text=True,
    )
    refused(done, "/nowhere/python", "make install")
