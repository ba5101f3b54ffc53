"""Text and binarised data that the tests of several commands share."""

import random
from pathlib import Path

import pytest
from helpers.commands import (
    run,
)
from helpers.preprocessing import write_pair

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
