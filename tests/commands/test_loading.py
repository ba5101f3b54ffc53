"""What the commands say of data and checkpoints that do not fit, and what they write about both.

One loader serves `translate`, `export` and `lesion`: each case goes through all three.
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from helpers.commands import EVERY_SENTENCE, ROOT, fairseq, last_line
from helpers.random_models import SMALL
from helpers.random_models import task as task_of_models
from helpers.trained_models import texts, train, write_test_set

import fairseq_mem
from fairseq_mem.dictionaries import fingerprint
from fairseq_mem.literals import shown
from fairseq_mem.models.mem_transformer import MemTransformerModel
from fairseq_mem.tools import cli

pytest.importorskip("ctranslate2")
FLAGS = ["--memory-tokens", "3", "--memory-decoder-tokens", "2"]
LANGUAGES = ["--source-lang", "de", "--target-lang", "en"]
COMMANDS = ("translate", "export", "lesion")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder `data` with a small model (``model.pt``), its dictionaries and a test set."""
    folder = tmp_path_factory.mktemp("made") / "data"
    train(folder, FLAGS)
    write_test_set(folder, texts(6, seed=5))
    return folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "data")


def run(command: str, checkpoint: Path, data: object, out: Path) -> int:
    """Run one of the commands; with few slots and a short search."""
    words = {
        "translate": [checkpoint, "--data", data, "--input", os.devnull, "--output", out],
        "export": [checkpoint, data, "--out", out],
        "lesion": [checkpoint, data, "--out", out, "--slots", 3, "--max-len-b", 5, "--cpu"],
    }[command]
    return cli.main([command, *map(str, words)])


def refusal(command: str, checkpoint: Path, data: object, out: Path) -> str:
    """The line with which a command gives up; nothing is written."""
    with pytest.raises(fairseq_mem.UserError) as stop:
        run(command, checkpoint, data, out)
    message = str(stop.value)
    assert "\n" not in message and len(message.replace(str(out.parent), "")) < 400
    assert not out.exists()
    return message


def reverse(path: Path) -> None:
    """The same words in another order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")


def edited(checkpoint: Path, change) -> Path:
    """A checkpoint whose contents ``change`` has changed."""
    state = torch.load(checkpoint)
    change(state)
    torch.save(state, checkpoint)
    return checkpoint


def forget(state: dict) -> None:
    """As an older version wrote it."""
    del state["cfg"]["model"].memory_dictionaries


# ------------------------------------------------------------ another dictionary


def test_a_fingerprint_is_of_words_and_their_order():
    made = [Dictionary() for _ in range(3)]
    for dictionary, words in zip(made, ("ab", "ba", "ab")):
        for word in words:
            dictionary.add_symbol(word, n=len(words) + made.index(dictionary))  # counts don't count
    prints = [fingerprint(dictionary) for dictionary in made]
    assert prints[0] == prints[2] != prints[1] and prints[0].startswith("6 words, ")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("side", "language"), [("source", "de"), ("target", "en")])
def test_another_order_of_words_is_refused(data, tmp_path, command, side, language):
    reverse(data / f"dict.{language}.txt")
    message = refusal(command, data / "model.pt", data, tmp_path / "out")
    assert f"the {side} dictionary of {data} (16 words, " in message
    assert "is not the one that the model was trained with (16 words, " in message
    assert "give the data that it learned from" in message and "exchanged" not in message


@pytest.mark.parametrize("command", COMMANDS)
def test_exchanged_languages_are_refused(data, tmp_path, command):
    (data / "dict.de.txt").rename(data / "kept")
    (data / "dict.en.txt").rename(data / "dict.de.txt")
    (data / "kept").rename(data / "dict.en.txt")
    message = refusal(command, data / "model.pt", data, tmp_path / "out")
    assert "the two languages are exchanged" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_checkpoints_without_a_fingerprint_are_taken_as_they_are(data, tmp_path, command):
    """Also with other data: nobody can tell."""
    edited(data / "model.pt", forget)
    reverse(data / "dict.de.txt")
    assert run(command, data / "model.pt", data, tmp_path / "out") == 0


@pytest.mark.parametrize("value", [None, "text", 7, {}, {"source": 3}])
def test_a_fingerprint_of_another_kind(data, value):
    """Somebody has changed the checkpoint."""
    edited(data / "model.pt", lambda s: setattr(s["cfg"]["model"], "memory_dictionaries", value))
    load = (str(data), "model.pt", str(data))
    if value == {"source": 3}:
        with pytest.raises(fairseq_mem.UserError, match="source dictionary"):
            MemTransformerModel.from_pretrained(*load)
    else:
        MemTransformerModel.from_pretrained(*load)


@pytest.mark.cli
def test_fairseqs_commands_refuse_it_too(data):
    """At 0 memory tokens as well; the message is the last line."""
    none = train(data / "none", ["--memory-tokens", "0"])
    for checkpoint in (data / "model.pt", none):
        options = ["--path", checkpoint, "--cpu", *LANGUAGES, *EVERY_SENTENCE]
        assert fairseq("generate", data, *options, check=False).returncode == 0
    reverse(data / "dict.en.txt")
    for checkpoint in (data / "model.pt", none):
        options = ["--path", checkpoint, "--cpu", *LANGUAGES, *EVERY_SENTENCE]
        done = fairseq("generate", data, *options, check=False)
        assert done.returncode == 1 and f"the target dictionary of {data}" in last_line(done)


@pytest.mark.parametrize("arch", ["mem_transformer", "mem_transformer_lm", "mem_transformer_xl"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_every_family_notes_and_checks(arch, tokens):
    sizes = {**SMALL, "memory_tokens": tokens}
    args = Namespace(**sizes, tokens_per_sample=8, adaptive_softmax_cutoff=None)
    ARCH_CONFIG_REGISTRY[arch](args)
    task = task_of_models()
    build = ARCH_MODEL_REGISTRY[arch].build_model
    build(args, task)
    assert args.memory_dictionaries["target"] == fingerprint(task.target_dictionary)
    build(args, task_of_models())  # from a checkpoint
    task.source_dictionary.symbols.reverse()
    with pytest.raises(fairseq_mem.UserError, match="source dictionary"):
        build(args, task)


def test_an_export_says_which_dictionaries_it_has(data, tmp_path):
    run("export", data / "model.pt", data, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "fairseq_mem.json").read_text(encoding="utf-8"))
    expected = {
        side: fingerprint(Dictionary.load(str(data / f"dict.{language}.txt")))
        for side, language in (("source", "de"), ("target", "en"))
    }
    assert about["dictionaries"] == expected


def averaged(paths: list[Path], out: Path) -> dict:
    cli.main(["average", *map(str, paths), "--out", str(out)])
    return getattr(torch.load(out)["cfg"]["model"], "memory_dictionaries", None)


def two_stock_models(folder: Path) -> list[Path]:
    return [train(folder, ["--arch", "transformer"], save=f"{n}.pt", updates=n) for n in (1, 2)]


def age(path: Path, seconds: float) -> None:
    """Make a file older."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_the_average_of_stock_models_is_told_its_dictionaries(tmp_path):
    """They do not note them: the data is asked, if it is older than the checkpoints."""
    data, out = tmp_path / "data", tmp_path / "averaged.pt"
    paths = two_stock_models(data)
    assert averaged(paths, out) is None  # the dictionaries were written after the first
    for language in ("de", "en"):
        age(data / f"dict.{language}.txt", 100)
    expected = averaged(paths, out)
    assert list(expected) == ["source", "target"]
    assert run("translate", out, data, tmp_path / "text") == 0
    reverse(data / "dict.de.txt")
    (tmp_path / "text").unlink()
    assert "the source dictionary" in refusal("translate", out, data, tmp_path / "text")
    assert averaged(paths, out) is None  # younger
    with (data / "dict.de.txt").open("a") as file:
        file.write("more 1\n")
    age(data / "dict.de.txt", 100)
    assert averaged(paths, out) is None  # of another size
    (data / "dict.de.txt").write_text("no number\n")
    age(data / "dict.de.txt", 100)
    assert averaged(paths, out) is None
    (data / "dict.de.txt").unlink()
    assert averaged(paths, out) is None


def test_checkpoints_with_different_dictionaries_are_not_averaged(data, tmp_path):
    reverse(data / "dict.de.txt")
    other = train(tmp_path / "other", FLAGS, save="other.pt", updates=1)
    assert averaged([data / "model.pt", other], tmp_path / "fine.pt")  # the same words

    def change(state: dict) -> None:
        state["cfg"]["model"].memory_dictionaries["source"] = "16 words, 0000000000000000"

    edited(other, change)
    with pytest.raises(fairseq_mem.UserError, match="trained with different dictionaries"):
        averaged([data / "model.pt", other], tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
    edited(other, forget)
    kept = torch.load(data / "model.pt")["cfg"]["model"].memory_dictionaries
    assert averaged([data / "model.pt", other], tmp_path / "out.pt") == kept


# ------------------------------------------------------------ other data, other models


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_folder_of_several_counts(data, tmp_path, command):
    """`fairseq-train a:b` takes dictionaries, validation and test sets from the first."""
    shards = f"{data}{os.pathsep}{tmp_path / 'second'}"
    assert run(command, data / "model.pt", shards, tmp_path / "out") == 0
    if command == "translate":
        edited(data / "model.pt", lambda state: state["cfg"]["task"].update(data=shards))
        words = ["translate", data / "model.pt", "--input", os.devnull]
        assert cli.main([*map(str, words)]) == 0
    message = refusal(command, data / "model.pt", f"{tmp_path / 'no'}:{data}", tmp_path / "none")
    assert f"{tmp_path / 'no'} " in message or f"in {tmp_path / 'no'};" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_data_that_is_not_the_models(data, tmp_path, command):
    def told() -> str:
        return refusal(command, data / "model.pt", data, tmp_path / "out")

    dictionary = data / "dict.en.txt"
    whole = dictionary.read_bytes()
    dictionary.write_bytes(whole + b"more 1\n")
    assert f"{dictionary} has 17 words, the model 16; give the binarised data" in told()
    for spoilt in (whole.replace(b" 1\n", b" one\n"), whole.replace(b"t3 ", b"\xff ")):
        dictionary.write_bytes(spoilt)
        assert f"with the dictionaries of {data}: " in told()
    dictionary.unlink()
    assert f"{dictionary} is missing; give the binarised data" in told()


@pytest.mark.parametrize("command", COMMANDS)
def test_checkpoints_that_are_damaged_or_of_another_shape(data, tmp_path, command):
    def told(change) -> str:
        shutil.copyfile(data / "model.pt", data / "other.pt")
        change(data / "other.pt")
        return refusal(command, data / "other.pt", data, tmp_path / "out")

    def narrow(state: dict) -> None:
        state["cfg"]["model"].decoder_ffn_embed_dim = 48

    def lacking(state: dict) -> None:
        state["model"] = {k: v for k, v in state["model"].items() if "fc1" not in k}

    assert "size mismatch for decoder.layers.0.fc1.weight" in told(lambda p: edited(p, narrow))
    assert "Missing key(s) in state_dict: " in told(lambda path: edited(path, lacking))
    assert "is damaged" in told(lambda path: path.write_bytes(path.read_bytes()[:-2000]))
    assert "damaged, or no checkpoint" in told(lambda path: path.write_text("text\n"))
    no_options = told(lambda path: edited(path, lambda state: state.update(cfg=None)))
    assert "no checkpoint that fairseq can read" in no_options
    (data / "other.pt").unlink()
    (data / "other.pt").mkdir()
    assert "is a folder" in refusal(command, data, data, tmp_path / "out") or command == "translate"


@pytest.mark.parametrize("command", ["translate", "lesion"])
@pytest.mark.parametrize("task", ["multilingual_translation", "language_modeling", "somebody's"])
def test_models_of_other_tasks_are_named_before_anything_is_built(
    data, tmp_path, monkeypatch, command, task
):
    monkeypatch.setattr("fairseq.tasks.setup_task", None)  # would be a TypeError
    edited(data / "model.pt", lambda state: state["cfg"]["task"].update(_name=task))
    message = refusal(command, data / "model.pt", data, tmp_path / "out")
    assert f"is a model of the task {shown(task)}, and this command takes models of " in message


def test_checkpoints_of_two_directions_are_not_evaluated_together(data, tmp_path, monkeypatch):
    other = shutil.copyfile(data / "model.pt", data / "other.pt")
    edited(other, lambda s: s["cfg"]["task"].update(source_lang="en", target_lang="de"))
    edited(other, forget)
    words = ["lesion", data / "model.pt", other, data, "--out", tmp_path / "out", "--cpu"]
    with pytest.raises(fairseq_mem.UserError, match="translates en to de, the one before de to en"):
        cli.main([*map(str, words), "--slots", "3", "--max-len-b", "5"])


# ------------------------------------------------------------ a damaged test set


def number(data: Path, language: str, value: int) -> None:
    """Put a number that is no word's into the first sentence."""
    path = data / f"test.de-en.{language}.bin"
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, 0, value)
    path.write_bytes(content)


def pipe(path: Path) -> None:
    """Whoever opens it waits."""
    path.unlink()
    os.mkfifo(path)


SPOIL = {
    "bin cut": lambda data: os.truncate(data / "test.de-en.en.bin", 3),
    "bin empty": lambda data: os.truncate(data / "test.de-en.de.bin", 0),
    "bin gone": lambda data: (data / "test.de-en.de.bin").unlink(),
    "bin a pipe": lambda data: pipe(data / "test.de-en.en.bin"),
    "idx a pipe": lambda data: pipe(data / "test.de-en.de.idx"),
    "idx cut": lambda data: os.truncate(data / "test.de-en.en.idx", 30),
    "idx short": lambda data: os.truncate(data / "test.de-en.de.idx", 5),
    "idx empty": lambda data: os.truncate(data / "test.de-en.en.idx", 0),
    "idx of text": lambda data: (data / "test.de-en.de.idx").write_text("nonsense " * 20),
    "idx longer": lambda data: shutil.copyfile(
        data.parent / "other.idx", data / "test.de-en.en.idx"
    ),
    "no word, source": lambda data: number(data, "de", 60_000),
    "no word, target": lambda data: number(data, "en", 16),
}


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_damaged_test_set_is_named(data, tmp_path, spoil):
    longer = tmp_path / "longer" / "data"
    longer.mkdir(parents=True)
    for language in ("de", "en"):
        shutil.copyfile(data / f"dict.{language}.txt", longer / f"dict.{language}.txt")
    write_test_set(longer, texts(9, seed=6))
    shutil.copyfile(longer / "test.de-en.en.idx", tmp_path / "other.idx")
    SPOIL[spoil](data)
    message = refusal("lesion", data / "model.pt", data, tmp_path / "out")
    assert f"test of {data} cannot be read: " in message and message.endswith("binarise it again")


def test_a_damaged_result_is_made_again(data, tmp_path, capsys):
    out = tmp_path / "out"
    run("lesion", data / "model.pt", data, out)
    (path,) = out.glob("results/*/slots-3.json")
    whole = path.read_text()
    result = json.loads(whole)
    spoilt = [
        "[" * 100_000,
        "[]",
        json.dumps({**result, "BLEU": 10**400}),
        json.dumps({**result, "settings": []}),
        json.dumps({**result, "signature": None}),
        whole.replace('"loss"', '"lost"'),
        "\udcff",
    ]
    for text in spoilt:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        run("lesion", data / "model.pt", data, out)
        assert f"{path} is damaged; it is made again" in capsys.readouterr().err
        assert json.loads(path.read_text())["BLEU"] == result["BLEU"]


# ------------------------------------------------------------ stopped from outside


@pytest.mark.cli
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_is_stopped_leaves_nothing_behind(made, tmp_path, number):
    out = tmp_path / "out" / "text"
    out.parent.mkdir()
    words = ["translate", made / "model.pt", "--data", made, "--output", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "fairseq_mem", *map(str, words)], cwd=ROOT,
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    while not list(out.parent.iterdir()):  # it waits for input
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (1 if number == signal.SIGINT else 128 + number)
    assert b"Traceback" not in errors
    assert list(out.parent.iterdir()) == []


def test_signals_do_after_a_command_what_they_did_before(data, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "print_user_dir", lambda _: seen.append(signal.getsignal(15)))
    seen: list[object] = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        cli.main(["user-dir"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, kept)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before
    assert len(seen) == 1 and callable(seen[0]) and seen[0] is not before[0]
