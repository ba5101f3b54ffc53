"""Damaged files, by every command that reads them: a right result, or one clear line; no more.

Each try damages one file of a folder in one way and runs one command on it, in a copy of this
process with limits on memory and time. Whatever comes: no crash, no hang, nothing half-made.
"""

import random
import shutil
from pathlib import Path

import pytest
from helpers import damage, spoilable
from helpers.apart import Done, apart

pytest.importorskip("ctranslate2")
WHOLE = ("export", "average")  # they write `out` or nothing
# How a file is damaged, and the commands that read it.
CODES = ["translate", "score", "export", "attention"]
DATA: dict[str, tuple[list[damage.Damage], list[str]]] = {
    "data/dict.de.txt": (
        [*damage.BYTES, *damage.PLACES, *[damage.lines] * 6],
        ["translate", "export", "lesion", "score", "attention", "generate", "interactive"],
    ),
    "data/dict.en.txt": (
        [*damage.BYTES, *damage.PLACES, *[damage.lines] * 6],
        ["translate", "export", "score", "context", "generate", "validate", "train"],
    ),
    "data/code": ([*damage.BYTES, *damage.PLACES, *[damage.lines] * 8], CODES),
    "data/settings.txt": ([*damage.BYTES, *damage.PLACES, *[damage.lines] * 8], [*CODES, "lesion"]),
    "data/test.de-en.de.idx": (
        [*damage.BYTES, *damage.PLACES], ["lesion", "context", "generate", "validate", "train"],
    ),
    "data/test.de-en.en.idx": (
        [*damage.BYTES, *damage.PLACES], ["lesion", "context", "generate", "validate", "train"],
    ),
    "data/test.de-en.en.bin": (
        [*damage.BYTES, *damage.PLACES], ["lesion", "context", "generate", "validate", "train"],
    ),
    "data/test.documents": (
        [*damage.BYTES, *damage.PLACES, *[damage.lines] * 8], ["context", "generate documents"],
    ),
}  # fmt: skip
TEXTS = {
    "input": ["translate", "translate exported", "score", "score exported", "attention",
              "translate documents"],
    "target": ["score", "score exported", "attention"],
    "contrastive": ["contrastive"],
}  # fmt: skip
EXPORTED: dict[str, list[damage.Damage]] = {
    "fairseq_mem.json": [*damage.BYTES, *damage.PLACES, *damage.JSON, damage.retype],
    "config.json": [*damage.BYTES, *damage.PLACES, *damage.JSON],
    "shared_vocabulary.json": [*damage.BYTES, *damage.PLACES, *damage.JSON],
    "code": [*damage.BYTES, *damage.PLACES, damage.lines, damage.lines],
    "model.bin": [*damage.BYTES, *damage.PLACES],
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return spoilable.make(tmp_path_factory.mktemp("sound") / "place")


@pytest.fixture
def place(sound, tmp_path, monkeypatch) -> Path:
    """A copy to damage, which is the working folder."""
    copied = Path(shutil.copytree(sound, tmp_path / "place"))
    monkeypatch.chdir(copied)
    return copied


def spoil(
    place: Path, name: str, kinds: list[damage.Damage], door: str, chance: random.Random
) -> str:
    """Damage a file; returns how.

    A pipe is left to our commands: what fairseq opens itself it waits for, as any program would.
    """
    ours = door in spoilable.OURS
    kind = chance.choice([kind for kind in kinds if kind is not damage.fifo or ours])
    kind(place / name, chance)
    return kind.__name__


def check(place: Path, door: str, about: object) -> Done:
    """Run a command; it does its work or refuses, and leaves nothing half-made."""
    before = {path.relative_to(place) for path in place.rglob("*")}
    done = apart(spoilable.DOORS[door])
    wrong = spoilable.told(door, done)
    assert not wrong, (about, door, wrong, done)
    new = {path.relative_to(place) for path in place.rglob("*")} - before
    assert not [path for path in new if "partial" in path.name], (about, door, new)
    if done.status and door in WHOLE:
        assert not new, (about, door, new)
    return done


def result(place: Path, door: str, done: Done) -> str | bytes:
    """What a command found, as far as it does not tell the time."""
    if door == "export":
        return (place / "out" / "model.bin").read_bytes()
    return done.stdout if door in ("translate", "score") else ""


@pytest.fixture(scope="module")
def right(sound, tmp_path_factory) -> dict[str, str | bytes]:
    """What comes of the sound checkpoint."""
    found = {}
    for door in ("translate", "score", "export"):
        place = Path(shutil.copytree(sound, tmp_path_factory.mktemp("right") / door))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            done = check(place, door, "nothing")
            assert done.status == 0
            found[door] = result(place, door, done)
            assert found[door]
    return found


# ---------------------------------------------------------------- checkpoints

CHECKPOINT_DOORS = [
    "translate", "score", "export", "average", "attention", "generate", "interactive", "validate",
    "train", "from_pretrained", "translate", "score", "export", "lesion",
]  # fmt: skip


@pytest.mark.tries(sample=3, soak=220)
def test_an_archive(seed, place, right):
    """Its sums tell every change of what counts: the result is refused, or right."""
    chance = random.Random(seed)
    door = CHECKPOINT_DOORS[seed % len(CHECKPOINT_DOORS)]
    kinds = [*damage.BYTES, *damage.BYTES, *damage.PLACES]
    how = spoil(place, "model.pt", kinds, door, chance)
    done = check(place, door, how)
    if done.status == 0 and door in right:
        assert result(place, door, done) == right[door], how


@pytest.mark.tries(sample=3, soak=220)
def test_a_checkpoint_without_sums(seed, place):
    """The form of torch before 1.6: numbers may change without a word, all else is told."""
    (place / "legacy.pt").replace(place / "model.pt")
    chance = random.Random(seed)
    kind = chance.choice([*damage.BYTES, damage.flip, damage.overwrite])
    if chance.random() < 0.6:  # where the options and names are, and where the sizes are
        path = place / "model.pt"
        whole = path.read_bytes()
        start, size = chance.choice([(0, 600), (0, 30_000), (0, 30_000), (len(whole) - 9000, 9000)])
        path.write_bytes(whole[start : start + size])
        kind(path, chance)
        path.write_bytes(whole[:start] + path.read_bytes() + whole[start + size :])
    else:
        kind(place / "model.pt", chance)
    check(place, CHECKPOINT_DOORS[seed % len(CHECKPOINT_DOORS)], kind.__name__)


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize("name", DATA)
@pytest.mark.tries(sample=1, soak=40)
def test_prepared_data(name, seed, place):
    chance = random.Random(f"{name} {seed}")
    kinds, doors = DATA[name]
    door = doors[seed % len(doors)]
    check(place, door, (name, spoil(place, name, kinds, door, chance)))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.tries(sample=1, soak=60)
def test_texts(name, seed, place):
    chance = random.Random(f"{name} {seed}")
    door = TEXTS[name][seed % len(TEXTS[name])]
    places = [damage.missing, damage.folder, damage.link]  # for a pipe it is right to wait
    kinds = [*damage.BYTES, *places, *[damage.lines] * 8]
    check(place, door, (name, spoil(place, name, kinds, door, chance)))


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.tries(sample=1, soak=40)
def test_an_exported_model(name, seed, place):
    """As commands say it; unit tests have the library's answers."""
    chance = random.Random(f"{name} {seed}")
    door = ("translate exported", "score exported", "contrastive")[seed % 3]
    how = spoil(place, f"exported/{name}", EXPORTED[name], door, chance)
    check(place, door, (name, how))
