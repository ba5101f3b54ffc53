"""Text and binarised data that the tests of several commands share."""

import random
import shutil
from pathlib import Path

import pytest
from helpers.commands import (
    run,
)
from helpers.exports import BOTH, SHARED
from helpers.finished_runs import make_run
from helpers.preprocessing import write_pair
from helpers.trained_models import train

import fairseq_mem  # noqa: F401  (lets torch.load read fairseq's checkpoints)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Binarised parallel text: a source of numbers, the same numbers in words as the target."""
    folder = tmp_path_factory.mktemp("text")
    numbers = random.Random(0)
    names = "null eins zwei drei vier fünf sechs sieben acht neun".split()
    for split, lines in (("train", 120), ("valid", 20), ("test", 12)):
        source, target = [], []
        for _ in range(lines):
            digits = [numbers.randrange(10) for _ in range(numbers.randrange(2, 8))]
            source.append(" ".join(map(str, digits)))
            target.append(" ".join(names[digit] for digit in digits))
        (folder / f"{split}.de").write_text("\n".join(source) + "\n", encoding="utf-8")
        (folder / f"{split}.en").write_text("\n".join(target) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "-s", "de", "-t", "en", "--trainpref", folder / "train",
        "--validpref", folder / "valid", "--testpref", folder / "test", "--joined-dictionary",
        "--destdir", folder / "bin",
    )  # fmt: skip
    return folder / "bin"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of small raw text: train, valid and test."""
    for name, count in (("train", 300), ("valid", 20), ("test", 20)):
        write_pair(tmp_path / "raw", name, count)
    return tmp_path / "raw"


@pytest.fixture
def runs(tmp_path):
    """Two models with three seeds each."""
    for seed in (1, 2, 3):
        make_run(tmp_path / f"runs/baseline/{seed}", "baseline", seed, 0.35)
        make_run(tmp_path / f"runs/mem-10/{seed}", "mem-10", seed, 0.1)
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A folder with a small model with both memories (``model.pt``) and its dictionaries."""
    folder = tmp_path_factory.mktemp("small")
    train(folder, [*BOTH, *SHARED])
    return folder


@pytest.fixture
def copy_of_small_model(small_model, tmp_path) -> Path:
    return shutil.copytree(small_model, tmp_path / "copy")
