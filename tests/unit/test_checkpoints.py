"""Checkpoints that are damaged, or a stranger's, by every door through which one is loaded."""

import argparse
import contextlib
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq_cli.eval_lm
import fairseq_cli.generate
import fairseq_cli.interactive
import fairseq_cli.train
import fairseq_cli.validate
import pytest
import torch
from fairseq import checkpoint_utils, file_utils, models
from fairseq.criterions.sentence_ranking import SentenceRankingCriterion
from fairseq.data import EncodedFastaDataset
from helpers import commands, trained_models
from helpers.spoilable import fairseqs, ours
from omegaconf import OmegaConf

from fairseq_mem import MemTransformerModel, UserError, checkpoints
from fairseq_mem.checkpoints import read_checkpoint

# ---------------------------------------------------------------- damaged


def test_a_copy_of_fairseqs_is_whole_or_not_there(tmp_path, monkeypatch):
    """fairseq copies into the last and the best checkpoint, and a kill would cut them short."""
    source, path = tmp_path / "checkpoint_1_2.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new")
    path.write_bytes(b"old")
    copy = checkpoint_utils.PathManager.copy

    def cut_short(_, goal):
        Path(goal).write_bytes(b"ne")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfile", cut_short)
        copy(str(source), str(path), overwrite=True)
    assert path.read_bytes() == b"old"
    assert copy(str(source), str(path), overwrite=True)
    assert path.read_bytes() == b"new" and not list(tmp_path.glob("*.tmp"))


def equal(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        kinds = [(tensor.dtype, tensor.shape) for tensor in (one, other)]
        return kinds[0] == kinds[1] and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return {
        "args": None,
        "cfg": {"model": {"_name": "x", "dropout": 0.1}, "task": argparse.Namespace(_name="t")},
        "model": {"w": torch.randn(7, 5), "b": torch.randn(9).half()},
        "optimizer_history": [
            {"num_updates": 3, "optimizer_name": "Adam", "lr_scheduler_state": {}}
        ],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }


def read_by_fairseq(path: Path) -> dict[str, Any]:
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    state["cfg"] = OmegaConf.to_container(state["cfg"])
    return state


@pytest.mark.parametrize("read", [read_checkpoint, read_by_fairseq])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_archive_is_refused_or_does_no_harm(small, tmp_path, read):
    """A bit of each byte, and cuts: refused in a line, or what was saved, bit for bit."""
    path = tmp_path / "checkpoint.pt"
    torch.save(small, path)
    whole = path.read_bytes()
    assert equal(read(path), small)
    chance = random.Random(1)
    damaged = [bytearray(whole) for _ in whole]
    for place, some in enumerate(damaged):
        some[place] ^= 1 << chance.randrange(8)
    # torch takes a file with this attribute for a folder, and gives what is in memory
    start = -1
    while (start := whole.find(b"PK\x01\x02", start + 1)) >= 0:
        damaged.append(bytearray(whole))
        damaged[-1][start + 38] |= 0x10
    damaged += [bytearray(whole[:length]) for length in range(0, len(whole), 7)]
    refused = 0
    for number, some in enumerate(damaged):
        path.write_bytes(some)
        try:
            state = read(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert equal(state, small), number
    assert refused > len(damaged) / 2


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="is no regular file"):
        read_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("name", ["a\x1b]0;title\a", "a\n", 7])
def test_a_weights_name_does_no_harm_to_a_terminal(small, tmp_path, name):
    """torch tells names that it does not expect, as they are."""
    torch.save({**small, "model": {name: torch.ones(1)}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="weight without a proper name"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def flip_a_weight(path: Path) -> None:
    """What torch alone does not notice."""
    data = bytearray(path.read_bytes())
    data[data.index(b"/data/0") + 200] ^= 64
    path.write_bytes(data)
    torch.load(path)


# ---------------------------------------------------------------- by every door


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> Path:
    """A checkpoint and its data, and what else a task may ask for."""
    folder = tmp_path_factory.mktemp("hostile") / "data"
    trained_models.train(folder, ["--share-all-embeddings", "--memory-tokens", "2"])
    trained_models.write_test_set(folder, trained_models.texts(4, 1))
    (folder / "dict.txt").write_bytes((folder / "dict.de.txt").read_bytes())
    return folder


@pytest.fixture
def place(trained_once, tmp_path, monkeypatch) -> Path:
    """A folder to spoil; ``ran`` in it is what the payload makes."""
    for path in (trained_once, trained_once.parent / "raw"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model.pt").write_bytes((trained_once / "model.pt").read_bytes())
    (tmp_path / "input").write_text("s1 s2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PATH = ("--path", "model.pt", "--max-tokens", "500", *commands.EVERY_SENTENCE)
SUBSET = ("--task", "translation", "--valid-subset", "test")
DOORS: dict[str, Callable[[], object]] = {
    "translate": ours("translate", "model.pt", "--data", "data", "--input", "input"),
    "lesion": ours("lesion", "model.pt", "data", "--out", "out", "--cpu", "--tokenizer", "none"),
    "export": ours("export", "model.pt", "data", "--out", "out"),
    "average": ours("average", "model.pt", "--out", "out"),
    "from_pretrained": lambda: MemTransformerModel.from_pretrained(".", "model.pt", "data"),
    "generate": fairseqs(fairseq_cli.generate, "data", *PATH, "-s", "de", "-t", "en"),
    "interactive": fairseqs(
        fairseq_cli.interactive, "data", "--path", "model.pt", "-s", "de", "-t", "en"
    ),
    "validate": fairseqs(fairseq_cli.validate, "data", *PATH, *SUBSET),
    "eval-lm": fairseqs(fairseq_cli.eval_lm, "data", *PATH),
    "train": fairseqs(
        fairseq_cli.train, "data", "--restore-file", "model.pt", "--save-dir", "out",
        "--valid-subset", "test", "--train-subset", "test", "--max-tokens", "500",
        "--max-update", "1", "--memory-tokens", "2", "--share-all-embeddings",
        *trained_models.SMALL,
    ),
}  # fmt: skip


def spoil(place: Path, change: Callable[[dict[str, Any], str], object]) -> None:
    """Write ``model.pt`` again with a change that holds a payload."""
    state = torch.load(place / "model.pt")
    state = change(state, f"__import__('os').mkdir({str(place / 'ran')!r})") or state
    torch.save(state, place / "model.pt")


def cutoff(state: dict[str, Any], text: str) -> None:
    state["cfg"]["model"].adaptive_softmax_cutoff = text


def another_architecture(state: dict[str, Any], text: str) -> None:
    vars(state["cfg"]["model"]).update(
        _name="fconv", arch="fconv", encoder_layers=text, decoder_layers="[(16, 3)]",
        encoder_embed_path=None, decoder_embed_path=None, decoder_attention="True",
        decoder_out_embed_dim=8, share_input_output_embed=False,
    )  # fmt: skip


def another_task(state: dict[str, Any], text: str) -> None:
    state["cfg"]["task"] = argparse.Namespace(
        _name="translation", task="multilingual_translation", left_pad_source=text, data="data",
        lang_pairs="de-en", source_lang="de", target_lang="en",
    )  # fmt: skip


def criterion(state: dict[str, Any], text: str) -> None:
    state["cfg"]["criterion"] = {"_name": "ctc", "wer_args": text}


def old_options(state: dict[str, Any], text: str) -> None:
    cutoff(state, text)
    args = state["cfg"]["model"]
    args.task, args.data, args.source_lang, args.target_lang = "translation", "data", "de", "en"
    state.update(args=args, cfg=None)


def omegaconfs_options(state: dict[str, Any], text: str) -> None:
    cutoff(state, text)
    state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})


def environment(state: dict[str, Any], _: str) -> None:
    state["cfg"]["task"]["data"] = "${oc.env:HOME}"


def file_of_hydra(state: dict[str, Any], text: str) -> None:
    old_options(state, "1,2")
    state["args"].bpe = "../../bpe"


CHANGES = (
    cutoff, another_architecture, another_task, criterion, old_options, omegaconfs_options,
    environment, file_of_hydra,
)  # fmt: skip


@pytest.fixture
def built(monkeypatch) -> list[Any]:
    """The models that were built."""
    seen, build = [], models.build_model
    monkeypatch.setattr(models, "build_model", lambda *a, **k: seen.append(a) or build(*a, **k))
    return seen


# two changes by every door, all by one of ours, one command of fairseq's and the hub
@pytest.mark.parametrize(
    ("change", "door"),
    [
        (change, door)
        for change in CHANGES
        for door in DOORS
        if change in CHANGES[:2] or door in ("translate", "validate", "from_pretrained")
    ],
)
def test_a_hostile_option_is_refused_before_anything_is_built(door, change, place, built):
    spoil(place, change)
    with pytest.raises(UserError, match=r"model\.pt has .*do not use it") as refused:
        DOORS[door]()
    assert "\n" not in str(refused.value)
    assert len(built) == (door == "train")  # it builds what the command line says
    assert not (place / "ran").exists() and not (place / "out").is_file()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("change", CHANGES[:2])
def test_and_would_not_run_if_it_were_let_through(door, change, place, monkeypatch):
    """Two locks: what fairseq evaluates is a literal, whatever the checkpoint was let through."""
    monkeypatch.setattr(checkpoints, "check_options", lambda *_: None)
    spoil(place, change)
    with contextlib.suppress(Exception, SystemExit):
        DOORS[door]()
    assert not (place / "ran").exists()


@pytest.mark.parametrize("door", sorted({*DOORS} - {"train", "average"}))
def test_without_both_it_runs(door, place, monkeypatch):
    """The doors lead to where fairseq evaluates; `train` and `average` do not."""
    monkeypatch.setattr(checkpoints, "check_options", lambda *_: None)
    monkeypatch.setattr("fairseq.utils.eval", eval)
    monkeypatch.setattr("fairseq.models.fconv.eval", eval)
    monkeypatch.setattr("fairseq_mem.tools.export._check_options", lambda *_: None)
    spoil(place, cutoff)
    with contextlib.suppress(Exception, SystemExit):
        DOORS[door]()
    assert (place / "ran").exists()


@pytest.mark.parametrize("door", DOORS)
def test_damaged_weights_are_refused(door, place, built):
    flip_a_weight(place / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is damaged \(cut short, or changed") as refused:
        DOORS[door]()
    assert "\n" not in str(refused.value)
    assert len(built) == (door == "train")


# a translation model is none for eval-lm; commands/test_fairseq_translation.py resumes
@pytest.mark.parametrize("door", sorted({*DOORS} - {"eval-lm", "train"}))
def test_a_good_checkpoint_goes_in(door, place):
    DOORS[door]()


def test_averaged_weights_of_training_are_looked_at_too(place):
    flip_a_weight(place / "model.pt")
    with pytest.raises(UserError, match="damaged"):
        checkpoint_utils.load_ema_from_checkpoint(str(place / "model.pt"))


@pytest.mark.cli
@pytest.mark.parametrize(
    ("command", "damage"),
    [("translate", False), ("generate", True), ("validate", False), ("interactive", True)],
)
def test_commands_as_processes(command, damage, place):
    """In a process of its own, and what it says is the last line."""
    if damage:
        flip_a_weight(place / "model.pt")
    else:
        spoil(place, another_architecture)
    if command == "translate":
        done = commands.run("fairseq-mem", *"translate model.pt --data data".split(), check=False)
    else:
        more = ["-s", "de", "-t", "en"] if command != "validate" else SUBSET
        done = commands.fairseq(command, "data", *PATH, "--cpu", *more, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert ("is damaged" if damage else "has encoder_layers") in last
    assert last.startswith("fairseq_mem: model.pt ") and not (place / "ran").exists()


# ---------------------------------------------------------------- options beside those evaluated


def test_a_reference_to_another_option_is_not_refused(tmp_path):
    checkpoints.check_options(
        tmp_path,
        {"cfg": {"model": {"positions": "${task.max_positions}", "adam_betas": "(0.9, 0.98)"}}},
    )


def test_validating_overwrites_no_file_that_a_checkpoint_names(place):
    """fairseq's sentence_ranking opens the file that its option names."""
    victim = place / "victim"
    victim.write_text("precious")

    def change(state, _):
        state["cfg"]["criterion"] = argparse.Namespace(
            _name="sentence_ranking", criterion="sentence_ranking", num_classes=2,
            save_predictions=str(victim), ranking_head_name="x",
        )  # fmt: skip

    spoil(place, change)
    with contextlib.suppress(Exception, SystemExit):
        DOORS["validate"]()
    assert victim.read_text() == "precious"
    SentenceRankingCriterion(None, "x", str(victim), 2)
    assert victim.read_text() == ""  # it would have


def test_options_that_write_or_run_are_forgotten(place):
    def change(state, text):
        state["cfg"]["task"]["post_save_script"] = text
        state["cfg"]["common"]["tensorboard_logdir"] = "logs"

    spoil(place, change)
    cfg = checkpoint_utils.load_checkpoint_to_cpu("model.pt")["cfg"]
    assert cfg.task.post_save_script is None and cfg.common.tensorboard_logdir is None


@pytest.mark.parametrize("name", ["$(touch ran)", "a;touch ran;b", "a b"])
def test_a_shell_gets_no_name_that_it_would_take_for_more(name, place):
    """fairseq reads FASTA files by means of a shell; languages are part of their names."""
    (place / f"{name}.fasta").write_text(">x\nAB\n")
    with pytest.raises(UserError, match="rename"):
        EncodedFastaDataset(name, None)
    assert not (place / "ran").exists()


def test_an_archive_writes_nothing_outside_its_folder(place):
    """`from_pretrained` unpacks archives."""
    with tarfile.open("model.tar.gz", "w:gz") as archive:
        for name in ("model/model.pt", f"model/../../../../../../../..{place}/ran"):
            archive.add("input", name)
    with pytest.raises(tarfile.FilterError):
        file_utils.load_archive_file("model.tar.gz")
    assert not os.path.lexists(place / "ran")


@pytest.mark.parametrize(
    ("task", "arch", "said"),
    [
        ("audio_pretraining", "mem_transformer", "is a model of the task audio_pretraining"),
        ("no such\x1b", "mem_transformer", "is a model of the task 'no such\\\\x1b'"),
        ("translation", "wav2vec2", "is a model of the architecture wav2vec2"),
        ("translation", "transformer_lm", "is a model of the architecture transformer_lm"),
        ("translation", None, "is a model of the architecture ''"),
    ],
)
@pytest.mark.parametrize("door", ["translate", "lesion"])
def test_what_is_no_translation_model_is_not_built(door, task, arch, said, place, built):
    def change(state, _):
        state["cfg"]["task"]["_name"] = task
        vars(state["cfg"]["model"]).update(_name=arch, arch=arch)

    spoil(place, change)
    with pytest.raises(UserError, match=said):
        DOORS[door]()
    assert built == []
