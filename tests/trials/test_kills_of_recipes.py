"""Recipes that are killed at any moment, alone or with all they began, end as uninterrupted."""

import functools
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import kills, tiny_data
from helpers.tiny_trainings import configured, same, train

from fairseq_mem.runs import __main__ as recipes
from fairseq_mem.runs import forked
from fairseq_mem.runs.checkpoints import NAME, is_whole
from fairseq_mem.runs.sentence import write_predictions
from fairseq_mem.tools import cli

UPDATES = 15  # an epoch and some
KINDS = {"translation": "mem_transformer", "language-model": "mem_transformer_lm",
         "sentence": "sentence_prediction"}  # fmt: skip
OF_THE_CLOCK = ("wall_seconds", "target_tokens_per_second")
STAGES = {
    "translation": ("train", "average", "validate", "translate", "score"),
    "language-model": ("train", "valid", "test"),
    "sentence": ("train", "predict"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_data.make(tmp_path_factory.mktemp("recipes"))


def digits(model: Path) -> int:
    """A number that no other parameters give."""
    state = torch.load(model)["model"]
    return int(1e6 * sum(value.double().abs().sum().item() for value in state.values()))


def evaluate() -> None:
    """Stands in for the commands that evaluate: what it says depends on the model's parameters."""
    stage, model, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[2]).parent
    score = digits(model)
    if stage == "validate":
        for split in ("valid", "test"):
            print(f" | valid on '{split}' subset | loss 7.5 | nll_loss {score} | ppl 90.5 |")
    elif stage == "translate":
        for number in range(5):
            print(f"D-{number}\t-1\ttranslation {number} {score}")
    elif stage == "score":
        scores = [{"name": n, "score": score, "signature": "nrefs:1"} for n in ("BLEU", "chrF2")]
        print(json.dumps(scores))
    elif stage == "predict":
        write_predictions(out / "predictions.tsv", ["1", "0"], [str(score), "0"])
        print(f"{score} predicted")
    else:
        print(f"Evaluated 1,000 tokens\nLoss (base 2): {score}, Perplexity: {score}")


def recipe(data: Path, kind: str, run: Path) -> None:
    """Do what is missing of a run; its commands are forks of this process."""

    def fairseq_train() -> None:
        cfg = configured(data, KINDS[kind], 0)
        cfg.checkpoint.save_dir, cfg.checkpoint.no_last_checkpoints = str(run), True
        cfg.checkpoint.keep_interval_updates, cfg.checkpoint.keep_last_epochs = 2, 1
        cfg.optimization.max_update, cfg.common.log_interval = UPDATES, 1
        if "--restore-file" in sys.argv:
            cfg.checkpoint.restore_file = sys.argv[sys.argv.index("--restore-file") + 1]
        train(cfg, counted=False)  # of its steps, those that write are of interest here

    forked.PROGRAMS |= {
        "fairseq-train": fairseq_train, "evaluate": evaluate, "fairseq-mem": lambda: cli.main()
    }  # fmt: skip
    os.environ.pop("DRY_RUN", None)
    words = [kind, run, "--updates", UPDATES, "--devices", 1]
    words += ["--data-identity", data / "raw/train.de", "--dictionaries", data / "text/dict.txt"]
    if kind == "translation":
        words += ["--data", data / "pairs", "--reference", data / "raw/test.en", "--average", 2]
    if kind == "sentence":
        words += ["--metrics", "Pearson", "--drop-model"]
    words += ["--settings", "model=mem-3", "size=tiny", "seed:=1", "data=x", f"updates:={UPDATES}"]
    for stage in STAGES[kind]:
        words += [":::", stage]
        if stage == "train":
            words += ["fairseq-train"]
        elif stage == "average":
            words += ["fairseq-mem", "average", "THE LAST 2", "--out", run / "model.pt"]
        else:
            words += ["evaluate", stage, run / "model.pt", "--source-lang", "de"]
            words += ["--target-lang", "en"]
    sys.exit(recipes.main([str(word) for word in words]))


def files(run: Path) -> dict[str, Path]:
    """What a run leaves, but logs and checkpoints on the way, and what a kill left unfinished."""
    ignored = (".partial", ".tmp", ".log")
    found = {path.name: path for path in run.iterdir() if path.suffix not in ignored}
    return {name: path for name, path in found.items() if not NAME.fullmatch(name)}


def result(run: Path) -> dict:
    found = json.loads((run / "result.json").read_text())
    return {name: value for name, value in found.items() if name not in OF_THE_CLOCK}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Callable[[str], tuple[Path, kills.Ended]]:
    @functools.cache
    def made(kind: str) -> tuple[Path, kills.Ended]:
        # the same name as in the trial, which stands in the commands
        run = tmp_path_factory.mktemp(kind) / "run"
        ended = kills.run(lambda: recipe(data, kind, run), run)
        assert ended.status == 0, ended.said
        return run, ended

    return made


def assert_whole(run: Path, whole: Path) -> None:
    """Nothing under a name of its own is half made."""
    for name, path in files(run).items():
        if path.suffix == ".pt":
            assert is_whole(path), name
        elif path.suffix == ".json" or name in ("predictions.tsv", "hypotheses.txt"):
            if name == "result.json":
                assert result(run) | {"commands": 0} == result(whole) | {"commands": 0}
            else:
                assert path.read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.tries(sample=1, soak=75)
def test_recipes(seed, data, uninterrupted, tmp_path, record_property):
    chance = random.Random(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    whole, lasted = uninterrupted(kind)
    run, killed = tmp_path / "run", 0
    for _ in range(chance.randint(1, 3)):
        moment = kills.some_moment(chance, lasted)
        ended = kills.run(lambda: recipe(data, kind, run), run, moment)
        print(moment, ended.status, "after", ended.steps, "steps\n", ended.said)
        if run.exists():
            assert_whole(run, whole)
        if ended.status == 0:
            break
        assert ended.killed or "run again to continue" in ended.said
        killed += 1
    record_property(kind, killed)
    ended = kills.run(lambda: recipe(data, kind, run), run)
    assert ended.status == 0, ended.said
    assert_whole(run, whole)
    expected, found = files(whole), files(run)
    assert found.keys() == expected.keys()
    commands = "".join(result(run)["commands"]).replace(str(run), str(whole))
    assert commands == "".join(result(whole)["commands"])
    for name in ("model.pt", "checkpoint_best.pt"):
        if name in expected:
            one, other = (torch.load(folder / name) for folder in (whole, run))
            assert same(one["model"], other["model"]), name
    shutil.rmtree(tmp_path)
