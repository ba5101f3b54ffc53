"""A training that is killed, at any moment and several times, ends as the uninterrupted one."""

import functools
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import kills, tiny_data
from helpers.tiny_trainings import KINDS, LEARNING, configured, same, train

from fairseq_mem.runs.checkpoints import complete_best, is_whole
from fairseq_mem.runs.training import training_command


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_data.make(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Callable[[str, int], tuple[Path, kills.Ended]]:
    """The folder of a training that nothing happened to."""

    @functools.cache
    def made(kind: str, way: int) -> tuple[Path, kills.Ended]:
        folder = tmp_path_factory.mktemp(f"{kind}-{way}")
        cfg = configured(data, kind, way)
        cfg.checkpoint.save_dir = str(folder)
        ended = kills.run(lambda: train(cfg), folder)
        assert ended.status == 0, ended.said
        return folder, ended

    return made


def checkpoints(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("checkpoint*.pt")}


@pytest.mark.tries(sample=2, soak=18 * len(KINDS))
def test_training(seed, data, uninterrupted, tmp_path, record_property):
    """Resumed as fairseq does it, from its copy of the last checkpoint, or as our recipes do."""
    chance = random.Random(seed)
    kind, way = list(KINDS)[seed % len(KINDS)], seed // len(KINDS) % len(LEARNING)
    by_recipe = chance.random() < 0.4
    whole, lasted = uninterrupted(kind, way)
    cfg = configured(data, kind, way)
    cfg.checkpoint.save_dir = str(tmp_path)

    def program() -> None:
        if by_recipe:
            cfg.checkpoint.no_last_checkpoints = True
            complete_best(tmp_path)
            _, *options = training_command(["fairseq-train"], tmp_path)
            if options:
                assert options[0] == "--restore-file"
                cfg.checkpoint.restore_file = options[1]
        train(cfg)

    killed = 0
    for _ in range(chance.randint(2, 4)):
        moment = kills.some_moment(chance, lasted)
        ended = kills.run(program, tmp_path, moment)
        print(moment, ended.status, "after", ended.steps, "steps")
        assert ended.killed or ended.status == 0, ended.said
        for path in checkpoints(tmp_path).values():
            assert is_whole(path), path
        if not ended.killed:
            break
        killed += 1
    record_property(kind, killed)
    ended = kills.run(program, tmp_path)
    assert ended.status == 0, ended.said
    expected, found = checkpoints(whole), checkpoints(tmp_path)
    if by_recipe:
        expected.pop("checkpoint_last.pt")
    assert found.keys() == expected.keys()
    for name, path in expected.items():
        one, other = (torch.load(file) for file in (path, found[name]))
        for part in ("model", "last_optimizer_state", "extra_state"):
            assert same(one[part], other[part]), f"{part} of {name}"
        of_each = [state["optimizer_history"][-1] for state in (one, other)]  # one a resumption
        for history in of_each:  # a loss that fairseq forgets, and reduce_lr_on_plateau alone needs
            history["lr_scheduler_state"].pop("best", None)
        assert same(*of_each), f"optimizer_history of {name}"
    shutil.rmtree(tmp_path)
