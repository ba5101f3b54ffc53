"""Files of strangers, by every command that reads them: nothing is run, and one line is said.

Each try changes one file as its author could, sums and all, and gives it to one command, in a copy
of this process with limits on memory and time.
"""

import random
import shutil
from pathlib import Path

import pytest
import torch
from helpers import hostile, spoilable
from helpers.apart import apart

pytest.importorskip("ctranslate2")
DOORS = [
    "translate", "score", "generate", "export", "average", "attention", "interactive", "validate",
    "train", "from_pretrained", "translate", "generate", "export", "lesion",
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return spoilable.make(tmp_path_factory.mktemp("sound") / "place")


@pytest.fixture
def place(sound, tmp_path, monkeypatch) -> Path:
    """A copy to change, which is the working folder."""
    copied = Path(shutil.copytree(sound, tmp_path / "place"))
    monkeypatch.chdir(copied)
    return copied


def check(place: Path, door: str, about: object) -> None:
    """Run a command; nothing of the file's is run or written, and what is wrong is told."""
    before = {path.relative_to(place.parent) for path in place.parent.rglob("*")}
    done = apart(spoilable.DOORS[door])
    wrong = spoilable.told(door, done)
    assert not wrong, (about, door, wrong, done)
    new = {path.relative_to(place.parent) for path in place.parent.rglob("*")} - before
    allowed = Path("place", "out")
    others = [path for path in new if allowed not in (path, *path.parents)]
    assert not [path for path in others if path != Path("place", "out.json")], (about, door, new)
    assert not [path for path in new if "partial" in path.name], (about, door, new)


@pytest.mark.tries(sample=4, soak=260)
def test_what_a_checkpoint_says(seed, place):
    """Code, resolvers, files, types, models, tensors: in options, weights or notes."""
    chance = random.Random(seed)
    state = torch.load(place / "model.pt")
    changes = [chance.choice(hostile.CHANGES) for _ in range(chance.choice([1, 1, 1, 2]))]
    for change in changes:
        if isinstance(state.get("cfg"), dict) and isinstance(state.get("model"), dict):
            change(state, chance)
    torch.save(state, place / "model.pt", _use_new_zipfile_serialization=seed % 4 > 0)
    check(place, DOORS[seed % len(DOORS)], [change.__name__ for change in changes])


@pytest.mark.tries(sample=2, soak=120)
def test_how_a_checkpoint_is_made(seed, place):
    """Programs for the unpickler, and archives of all kinds."""
    chance = random.Random(seed)
    make = chance.choice(hostile.BY_HAND)
    make(place / "model.pt", chance)
    check(place, DOORS[seed % len(DOORS)], make.__name__)
