"""Standard streams that are full, closed, or read by somebody who has left."""

import os
import sys

import pytest
from fairseq_mem_serve import load_translator
from helpers import forked_commands, number_translator
from helpers.forked_commands import closed, into

import fairseq_mem
from fairseq_mem.tools import cli

GERMAN = [german for german, _ in number_translator.pairs(12, seed=3)]


@pytest.fixture(scope="module")
def expected(translator_files):
    return load_translator(translator_files.exported, threads=1).translate(GERMAN)


def lines(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def without_reader() -> None:
    """In a fork: the standard output goes to somebody who has left."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


@pytest.mark.parametrize("word", ["user-dir", "--help", "--version"])
def test_an_output_that_is_lost_is_told_in_a_line(word):
    """Python would tell it in a page, while it exits."""
    full = forked_commands.run(cli.main, ["fairseq-mem", word], lambda: into("/dev/full", 1))
    says = "fairseq_mem: cannot write to the standard output: No space left on device\n"
    assert (full.status, full.errors) == (1, says)
    left = forked_commands.run(cli.main, ["fairseq-mem", word], without_reader)
    assert (left.status, left.errors) == (141, "")
    nowhere = forked_commands.run(cli.main, ["fairseq-mem", word], lambda: closed(1))
    assert nowhere.status == 0
    assert not nowhere.errors or word == "--help"  # which argparse then prints there


def test_what_went_wrong_first_is_told(monkeypatch):
    def fails(args):
        print("what cannot be written")
        raise fairseq_mem.UserError("the first reason")

    monkeypatch.setattr(cli, "print_user_dir", fails)
    words = ["fairseq-mem", "user-dir"]
    ended = forked_commands.run(cli.main, words, lambda: into("/dev/full", 1))
    assert (ended.status, ended.errors) == (1, "fairseq_mem: the first reason\n")


def test_nothing_takes_the_place_of_a_closed_stream(monkeypatch, tmp_path):
    """Of the standard error: neither a file, by its number, nor the standard output."""

    def writes(args):
        with open(tmp_path / "file", "w") as file:
            os.write(2, b"of a library")
            print("of ours", file=sys.stderr)
            file.write("text")

    monkeypatch.setattr(cli, "print_user_dir", writes)
    words = ["fairseq-mem", "user-dir"]
    ended = forked_commands.run(cli.main, words, lambda: closed(0, 2))
    assert (ended.status, ended.output) == (0, b"")
    assert (tmp_path / "file").read_text() == "text"


def test_standard_streams_that_are_closed_or_full(translator_files, tmp_path, expected):
    (tmp_path / "in").write_bytes(lines(GERMAN[:2]) + b"\xff\n")
    words = ["fairseq-mem", "translate", translator_files.exported, "--threads", 1]
    from_file = [*words, "--input", tmp_path / "in"]
    for given, prepare, says in (
        (words, lambda: closed(0), "the standard input is closed; give --input"),
        (from_file, lambda: closed(1), "the standard output is closed; give --output"),
        (from_file, lambda: into("/dev/full", 1), "the standard output: No space left on device"),
    ):
        ended = forked_commands.run(cli.main, given, prepare)
        assert ended.status == 1 and says in ended.last_line, ended.errors
        assert "Exception ignored" not in ended.errors
    # messages must not get among the translations
    ended = forked_commands.run(cli.main, from_file, lambda: closed(2))
    assert (ended.status, ended.output) == (3, lines([*expected[:2], ""]))


def test_output_into_what_a_shell_opens(translator_files, tmp_path):
    """As with ``--output >(gzip)``: what /dev/fd/63 points to is no path."""
    (tmp_path / "in").write_bytes(b"eins zwei.\n")
    words = ["translate", translator_files.exported, "--input", tmp_path / "in", "--output"]
    reader, writer = os.pipe()
    assert cli.main([*map(str, [*words, f"/dev/fd/{writer}"])]) == 0
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read().count(b"\n") == 1
