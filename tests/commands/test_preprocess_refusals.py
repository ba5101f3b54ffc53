"""preprocess.sh: bad text, bad folders, full disks, bad options: one line, nothing half-written."""

import errno
import os
import re
import subprocess

import pytest
from fairseq_mem_text.checks import INDEX_HEADER
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.files import written
from helpers.preprocessing import (
    SCRIPT,
    command,
    last_line,
    mounted,
    preprocess,
    refused,
    replace_line,
    run_corpus,
    small_files,
)


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
    with pytest.raises(TextError, match="free some space and run again"):
        with written(str(tmp_path / "a"), str(tmp_path / "b")) as (a, _):
            a.write(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_verify_notices_lost_data(tmp_path):
    (tmp_path / "text").write_text("a b\nc\n")
    sizes = (3).to_bytes(4, "little") + (2).to_bytes(4, "little")
    index = INDEX_HEADER.pack(b"MMIDIDX\0\0", 1, 8, 2) + sizes + bytes(16)
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
        patterns, bracket, _ = line.strip().partition(")")
        if bracket and re.fullmatch(r"(-\w \| )?--[a-z-]+( \| --[a-z-]+)*", patterns):
            for option in patterns.split(" | "):
                assert f" {option}" in done.stdout


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
