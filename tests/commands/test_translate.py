"""`fairseq-mem translate`: line by line whatever comes, with either engine."""

import itertools
import json
import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq_mem_serve import Translator, load_translator
from helpers import number_translator
from helpers.commands import HANGS, ROOT

import fairseq_mem
from fairseq_mem.tools import cli
from fairseq_mem.tools.translate import command as translating
from fairseq_mem.tools.translate import streams
from fairseq_mem.tools.translate.command import load_checkpoint
from fairseq_mem.tools.translate.lines import Run

PAIRS = number_translator.pairs(12, seed=3)
GERMAN = [german for german, _ in PAIRS]


@pytest.fixture
def run(translator_files, tmp_path, capsys):
    """Translates bytes with the exported model; gives output, standard error, exit status."""

    def run(data: bytes, *options: object, model: object = translator_files.exported):
        (tmp_path / "in").write_bytes(data)
        words = ["translate", model, "--input", tmp_path / "in", "--output", tmp_path / "out"]
        status = cli.main([*map(str, [*words, "--threads", 1, *options])])
        return (tmp_path / "out").read_bytes(), capsys.readouterr().err, status

    return run


@pytest.fixture(scope="module")
def expected(translator_files):
    return load_translator(translator_files.exported, threads=1).translate(GERMAN)


def text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def refusal(translator_files, *options: object, model: object = None) -> str:
    """The one line with which the command gives up."""
    words = ["translate", model or translator_files.exported, "--input", os.devnull, *options]
    with pytest.raises(fairseq_mem.UserError) as stop:
        cli.main([*map(str, words)])
    assert "\n" not in str(stop.value)
    return str(stop.value)


# ---------------------------------------------------------------- lines


def test_both_engines_translate_the_same(run, translator_files, expected):
    out, errors, status = run(text(GERMAN))
    assert (out, errors, status) == (text(expected), "", 0)
    stock, _, status = run(
        text(GERMAN), "--data", translator_files.data, model=translator_files.checkpoint
    )
    assert (stock, status) == (out, 0)


def test_search_options_reach_the_model(run, translator_files):
    served = load_translator(translator_files.exported, threads=1)
    options = {"beam": 2, "length_penalty": 0.3, "max_len_a": 0.5, "max_len_b": 1}
    out, _, _ = run(
        text(GERMAN), "--beam", 2, "--length-penalty", 0.3, "--max-len-a", 0.5, "--max-len-b", 1,
        "--batch-tokens", 40,
    )  # fmt: skip
    assert out == text(served.translate(GERMAN, **options))


def test_lines_that_cannot_be_translated_stay_empty_and_are_named(run, expected):
    lines = text(GERMAN[:6]).splitlines()
    lines[1] = "fünf".encode("latin-1")
    lines[2] = b""
    lines[4] = b"eins " * 100
    out, errors, status = run(b"\n".join(lines))  # no newline behind the last
    kept = [*expected[:1], "", "", expected[3], "", expected[5]]
    assert out == text(kept)
    assert status == 3
    named = errors.splitlines()
    assert len(named) == 3
    assert "line 2: not valid UTF-8 (byte 0xfc at 2); convert" in named[0]
    assert "line 5: the sentence has 1" in named[1] and "takes 40" in named[1]
    assert "2 of 6 lines were left empty" in named[2]


def test_line_numbers_go_on_across_chunks(run, monkeypatch):
    monkeypatch.setattr(translating, "CHUNK_LINES", 2)
    out, errors, _ = run(b"eins.\nzwei.\ndrei.\nvier.\n\xff\n")
    assert out.count(b"\n") == 5
    assert "line 5: " in errors
    out, _, _ = run(b"eins.\nzwei.\ndrei.\n", "--json")
    assert [json.loads(line)["line"] for line in out.splitlines()] == [1, 2, 3]


def test_only_newlines_end_lines(run):
    odd = "eins zwei.\u2028drei vier.\x85fünf.\x0c sechs.\r\n\ufeffsieben.\x1e\r"
    out, _, status = run(b"\xef\xbb\xbf" + odd.encode(), "--json")
    records = [json.loads(line) for line in out.decode().split("\n")[:-1]]
    assert [r["source"] for r in records] == [part.removesuffix("\r") for part in odd.split("\n")]
    assert status == 0


def test_nothing_in_nothing_out(run):
    assert run(b"") == (b"", "", 0)
    assert run(b"\n \n")[0] == b"\n\n"


def test_json_lines(run, translator_files):
    out, _, status = run(text(GERMAN[:2]) + b"\n\xff\n", "--json", "--nbest", 3)
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 3
    assert [record["line"] for record in records] == [1, 2, 3, 4]
    assert [record["source"] for record in records] == [*GERMAN[:2], "", "\ufffd"]
    found = load_translator(translator_files.exported, threads=1).translate_nbest(
        GERMAN[:2], nbest=3
    )
    assert [record["translations"] for record in records[:2]] == [
        [h._asdict() for h in hypotheses] for hypotheses in found
    ]
    assert len(records[0]["translations"]) == 3
    assert records[2]["translations"] == [{"text": "", "score": 0.0, "tokens": []}]
    assert "not valid UTF-8" in records[3]["error"] and "translations" not in records[3]
    assert "ü".encode() in run("fünf.\n".encode(), "--json")[0]


# ---------------------------------------------------------------- reading


def read_all(data: bytes, most_lines: int) -> list[list[bytes | None]]:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        return list(streams.read_chunks(reading, most_lines))
    finally:
        os.close(reading)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_read_whole_wherever_blocks_end(monkeypatch, block, end):
    monkeypatch.setattr(streams, "BLOCK_BYTES", block)
    monkeypatch.setattr(streams, "MOST_LINE_BYTES", 6)
    lines = [b"ab", b"", b"cdefgh", b"ijklmno", b"p\r", b"ijklmnopqrstuvw", b"z"]
    chunks = read_all(b"\n".join(lines) + end, 3)
    kept = [line if len(line) <= 6 else None for line in lines]
    assert [line for chunk in chunks for line in chunk] == kept
    assert max(map(len, chunks)) <= 3
    assert all(chunks)


def test_a_line_without_end_is_not_kept_in_memory(run, monkeypatch):
    monkeypatch.setattr(streams, "MOST_LINE_BYTES", 1000)
    out, errors, status = run(b"x" * 300_000 + b"\neins.\n")
    assert out.startswith(b"\n") and out.count(b"\n") == 2 and len(out) > 2
    assert "line 1: more than 1,000 bytes" in errors and status == 3


def test_what_is_there_is_not_kept_waiting():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)  # waiting for more would be an error, not a hang
    chunks = streams.read_chunks(reading, 100)
    os.write(writing, b"one\ntwo\nthr")
    assert next(chunks) == [b"one", b"two"]  # the pipe stays open
    os.write(writing, b"ee\n")
    assert next(chunks) == [b"three"]
    os.close(writing)
    assert list(chunks) == []
    os.close(reading)


def test_who_goes_on_writing_is_not_kept_waiting_for_long(monkeypatch):
    """A line every few milliseconds, with never a pause that says that this is all."""
    now = itertools.count(step=0.01)  # seconds, whatever this machine takes for it
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(streams, "BLOCK_BYTES", len(b"line\n"))
    reading, writing = os.pipe()
    try:
        os.write(writing, b"line\n" * 1000)
        found = len(next(streams.read_chunks(reading, 100_000)))
        most = streams.MOST_SECONDS_TO_WAIT / 0.01
        assert most / 3 < found <= most
    finally:
        os.close(writing)
        os.close(reading)


# ---------------------------------------------------------------- writing


def test_output_appears_only_when_it_is_complete(run, tmp_path, monkeypatch):
    out, _, _ = run(text(GERMAN[:2]))

    def fails(*_: object) -> None:
        assert len(list(tmp_path.glob("out.*.partial"))) == 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "_translated", fails)
    with pytest.raises(fairseq_mem.UserError, match="disk is full"):
        run(b"eins.\n")
    assert (tmp_path / "out").read_bytes() == out
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("process", ["one number", "two numbers"])
def test_two_that_write_one_file_do_not_mix(tmp_path, process, monkeypatch):
    """Whoever comes last, it is one whole text; in two containers processes have equal numbers."""
    if process == "one number":
        monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "out"
    with streams.written(str(path)) as first:
        first.write(b"one\n" * 3)
        with streams.written(str(path)) as second:
            second.write(b"two\n")
        assert path.read_bytes() == b"two\n"
        first.write(b"one\n")
    assert path.read_bytes() == b"one\n" * 4
    assert list(tmp_path.iterdir()) == [path]


def test_the_output_has_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with streams.written(str(tmp_path / "out")):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_output_into_its_own_input(run, translator_files, tmp_path, expected):
    (tmp_path / "both").write_bytes(text(GERMAN))
    (tmp_path / "link").symlink_to("both")
    words = ["translate", translator_files.exported, "--input", tmp_path / "both"]
    assert cli.main([*map(str, [*words, "--output", tmp_path / "link"])]) == 0
    assert (tmp_path / "both").read_bytes() == text(expected)
    assert (tmp_path / "link").is_symlink()


def test_devices_are_written_to_and_not_replaced(translator_files, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    (tmp_path / "in").write_bytes(b"eins zwei.\n")
    words = ["translate", translator_files.exported, "--input", tmp_path / "in", "--output", fifo]
    assert cli.main([*map(str, words)]) == 0
    assert reader.communicate(timeout=HANGS)[0].count(b"\n") == 1
    assert fifo.is_fifo()


def test_progress_is_a_line_now_and_then(run, monkeypatch):
    monkeypatch.setattr(streams, "SECONDS_BETWEEN_PROGRESS", 0)
    monkeypatch.setattr(translating, "CHUNK_LINES", 5)
    _, errors, _ = run(text(GERMAN))
    lines = errors.splitlines()
    assert "fairseq-mem translate: 12 lines, " in lines[-1] and lines[-1].endswith(" a second")


def test_progress_of_a_checkpoint_is_told_after_every_batch(run, translator_files, monkeypatch):
    monkeypatch.setattr(streams, "SECONDS_BETWEEN_PROGRESS", 0)
    options = ["--data", translator_files.data, "--batch-tokens", 80]
    _, errors, _ = run(text(GERMAN) + b"\n", *options, model=translator_files.checkpoint)
    counts = [int(line.split()[2]) for line in errors.splitlines()]
    assert counts == sorted(counts) and counts[-1] == 13 and len(counts) > 3


def test_a_checkpoint_is_given_lines_a_thousand_at_a_time(translator_files, monkeypatch):
    """Whatever the number of threads: fairseq searches one batch after the other."""
    asked = []
    monkeypatch.setattr(Run, "translate", lambda run, i, o, lines: asked.append(lines))
    for model, options in (
        (translator_files.checkpoint, ["--data", translator_files.data]),
        (translator_files.exported, []),
    ):
        words = ["translate", model, "--input", os.devnull, "--threads", 3, *options]
        assert cli.main([*map(str, words)]) == 0
    assert asked == [1000, 3000]


# ---------------------------------------------------------------- what is refused


def test_refusals(translator_files, tmp_path):
    checkpoint, data = translator_files.checkpoint, translator_files.data

    def refused(*options: object, model: object = None) -> str:
        return refusal(translator_files, *options, model=model)

    assert "--nbest 2 gives several translations a line: add --json" in refused("--nbest", 2)
    assert "--nbest 5 is more than --beam 4" in refused("--nbest", 5, "--json")
    assert "there is no nowhere" in refused(model="nowhere")
    assert "without fairseq_mem.json" in refused(model=tmp_path)
    assert "--engine fairseq takes a checkpoint" in refused("--engine", "fairseq")
    assert f"--data {data}: " in refused("--data", data)
    assert "--bpe-codes x: " in refused("--bpe-codes", "x")
    assert "no such file" in refused("--data", data, "--bpe-codes", "x", model=checkpoint)
    assert "de to en, not de to fr" in refused("--target-lang", "fr")
    assert "de to en, not cs to en" in refused("--source-lang", "cs")
    assert "fairseq-mem export makes of it" in refused("--engine", "ctranslate2", model=checkpoint)
    assert "is no folder" in refused("--data", tmp_path / "no", model=checkpoint)
    assert "dict.de.txt" in refused("--data", tmp_path, model=checkpoint)
    assert "cannot read --input" in refused("--input", tmp_path / "no")
    assert "no GPU" in refused("--device", "cuda")
    assert "allow no translation" in refused("--max-len-a", 0, "--max-len-b", 0)


def test_a_length_penalty_that_no_number_can_hold(translator_files, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["translate", str(translator_files.exported), "--length-penalty", "300"])
    assert stop.value.code == 2
    assert "300 is not between -10 and 10" in capsys.readouterr().err


def test_a_search_that_fails_is_told_in_a_line(run, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\n  at some place in C++")

    monkeypatch.setattr(Translator, "translate_tokens", fails)
    with pytest.raises(fairseq_mem.UserError, match=r"lines 1 to 2: out of memory$"):
        run(b"eins.\nzwei.\n")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read")
def test_an_input_that_cannot_be_read_is_not_called_the_output(translator_files, tmp_path):
    words = ["--output", tmp_path / "out", "--input", "/proc/self/mem"]
    message = refusal(translator_files, *words)
    assert "cannot read the input: Input/output error" in message
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoints(translator_files, tmp_path):
    (tmp_path / "broken.pt").write_bytes(translator_files.checkpoint.read_bytes()[:1000])
    shutil.copytree(translator_files.data, tmp_path / "other")
    with open(tmp_path / "other" / "dict.de.txt", "a") as words:
        words.write("more 1\n")
    for model, data, message in (
        (tmp_path / "broken.pt", translator_files.data, f"{tmp_path / 'broken.pt'} is damaged"),
        (translator_files.checkpoint, tmp_path / "other", f"{tmp_path}/other/dict.de.txt has "),
    ):
        assert message in refusal(translator_files, "--data", data, model=model)


def test_how_the_data_was_prepared_is_found_out_or_told(translator_files, tmp_path):
    shutil.copytree(translator_files.data, tmp_path / "data")
    (tmp_path / "data" / "code").unlink()
    (tmp_path / "data" / "settings.txt").unlink()
    args = cli.build_parser("translate").parse_args(
        ["translate", str(translator_files.checkpoint), "--data", str(tmp_path / "data")]
    )
    translator = load_checkpoint(args)
    assert translator.split("„eins zwei.“") == ["„eins", "zwei.“"]
    codes = translator_files.data / "code"
    args.tokenizer, args.bpe_codes = "moses", str(codes)
    assert load_checkpoint(args).split("„eins.")[0] == "„"
    args.tokenizer = args.bpe_codes = None
    (tmp_path / "data" / "code").write_bytes(codes.read_bytes())
    assert load_checkpoint(args).split("„") == ["„"]
    (tmp_path / "data" / "settings.txt").write_text("# x 1\nnormalize yes\n")
    assert load_checkpoint(args).split("„") == ["&quot;"]
    soft = "ei\u00adns"
    assert load_checkpoint(args).split(soft) != translator.split("eins")
    (tmp_path / "data" / "settings.txt").write_text("# x 1\nnormalize yes\nnonprinting remove\n")
    assert load_checkpoint(args).split(soft) == load_checkpoint(args).split("eins")
    # of a model that reads the language that was the target
    (tmp_path / "data" / "code.de").write_text("#version: 0.2\nx y</w>\n")
    assert load_checkpoint(args).split("eins") == ["e@@", "i@@", "n@@", "s"]


def test_a_checkpoint_knows_its_data(run, translator_files, tmp_path, expected):
    out, _, status = run(text(GERMAN), model=translator_files.checkpoint)
    assert (out, status) == (text(expected), 0)
    for gone in (str(tmp_path / "gone"), "", None):
        state = torch.load(translator_files.checkpoint)
        state["cfg"]["task"]["data"] = gone
        torch.save(state, tmp_path / "moved.pt")
        message = refusal(translator_files, model=tmp_path / "moved.pt")
        assert f"is not there ({gone}): give --data DATA_BIN" in message


def test_data_that_a_recipe_named_from_its_own_folder(
    run, translator_files, tmp_path, monkeypatch, expected
):
    """The name counts from the folder of the training, which is above the checkpoint's."""
    shutil.copytree(translator_files.data, tmp_path / "project" / "work" / "data-bin")
    (tmp_path / "project" / "work" / "run").mkdir()
    state = torch.load(translator_files.checkpoint)
    state["cfg"]["task"]["data"] = "work/data-bin"
    model = tmp_path / "project" / "work" / "run" / "model.pt"
    torch.save(state, model)
    for folder in (tmp_path / "project", tmp_path, tmp_path / "project" / "work" / "run"):
        monkeypatch.chdir(folder)
        assert run(text(GERMAN), model=model)[::2] == (text(expected), 0)
    torch.save(state, tmp_path / "elsewhere.pt")
    message = refusal(translator_files, model=tmp_path / "elsewhere.pt")
    assert "is not there (work/data-bin): give --data DATA_BIN" in message


def test_without_the_package(monkeypatch, translator_files):
    monkeypatch.setitem(sys.modules, "fairseq_mem_serve", None)
    assert "pip install ." in refusal(translator_files)


# ---------------------------------------------------------------- as a process


def command(translator_files, *options: object) -> list[str]:
    words = [sys.executable, "-m", "fairseq_mem", "translate", translator_files.exported]
    return [*map(str, [*words, "--threads", 1, *options])]


ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "serve")]),
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.cli
def test_in_a_pipe_every_line_is_answered_at_once(translator_files, expected):
    process = subprocess.Popen(
        command(translator_files), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    for german, english in zip(GERMAN[:3], expected):
        process.stdin.write(f"{german}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == f"{english}\n"
    out, errors = process.communicate(b"\xff\n", timeout=HANGS)
    assert (out, process.returncode) == (b"\n", 3)
    assert b"line 4: not valid UTF-8" in errors and b"1 of 4 lines" in errors


@pytest.mark.cli
def test_a_reader_that_leaves_ends_it_quietly(translator_files, tmp_path):
    (tmp_path / "in").write_bytes(b"eins.\n" * 20_000)
    process = subprocess.Popen(
        command(translator_files, "--input", tmp_path / "in"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=HANGS) == 141


@pytest.mark.cli
def test_on_a_terminal_it_asks_line_by_line(translator_files, expected):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(translator_files), stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT
    )
    os.close(theirs)
    shown = ""

    def until(end: str) -> str:
        nonlocal shown
        while not shown.endswith(end):
            assert select.select([ours], [], [], HANGS)[0], shown
            shown += os.read(ours, 1000).decode()
        before, shown = shown, ""
        return before

    assert until("de-en> ").count("de-en>") == 1
    for german, english in zip(GERMAN[:2], expected):
        os.write(ours, f"{german}\n".encode())
        assert f"\n{english}\r\n" in until("de-en> ")
    os.write(ours, b"\x04")  # end of input
    assert process.wait(timeout=HANGS) == 0
    os.close(ours)


@pytest.mark.cli
def test_a_checkpoint_is_translated_without_chatter(translator_files, expected):
    words = [sys.executable, "-m", "fairseq_mem", "translate", translator_files.checkpoint]
    done = subprocess.run(
        [*map(str, [*words, "--data", translator_files.data, "--threads", 1])],
        input=text(GERMAN), capture_output=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == (text(expected), b"", 0)
