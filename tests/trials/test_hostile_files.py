"""Files of strangers, by every command that reads them: nothing is run, and one line is said.

Each try changes one file as its author could, sums and all, and gives it to one command, in a copy
of this process with limits on memory and time.
"""

import json
import os
import random
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fairseq_mem_text.files import sha256
from helpers import damage, hostile, spoilable
from helpers.apart import apart

from fairseq_mem import MemTransformerModel

pytest.importorskip("ctranslate2")
DOORS = [
    "translate", "score", "generate", "export", "average", "attention", "interactive", "validate",
    "train", "from_pretrained", "translate", "generate", "export", "lesion",
]  # fmt: skip


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


@pytest.mark.tries(sample=3, soak=200)
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


@pytest.mark.tries(sample=2, soak=100)
def test_how_a_checkpoint_is_made(seed, place):
    """Programs for the unpickler, and archives of all kinds."""
    chance = random.Random(seed)
    make = chance.choice(hostile.BY_HAND)
    make(place / "model.pt", chance)
    check(place, DOORS[seed % len(DOORS)], make.__name__)


# ---------------------------------------------------------------- exported models

WORDS = ["</s>", "<pad>", "<unk>", "<mem-0>", "<dmem-0>", "nowhere", "", "\n", "a b", "x" * 10**5]
LANGUAGES = [
    "../../../../etc/passwd", "de\0", "x" * 64, "DE", "zh", "ja", "$(mkdir ran)", "../ran",
    "{0.__class__}", "%s%n", "de_DE", "\ud800",
]  # fmt: skip
CODES = [
    "", "#version: 0.2\n", "#version: 0.2\na\n", "#version: 0.1\ns 1\n", "#version: 99\ns 1</w>\n",
    "#version: 0.2\n" + "a b\n" * 10**4, "#version: 0.2\n</w> </w>\n", "#version: 0.2\n\u2028 x\n",
    "#version: 0.2\n" + "x" * 10**6 + " y\n", "a b c d\n", "#version: " + "1" * 5000 + "\n",
]  # fmt: skip


def what_is_said(folder: Path, chance: random.Random) -> None:
    """About the text, the prefixes and the limits."""
    path = folder / "fairseq_mem.json"
    about = json.loads(path.read_text())
    values: dict[str, Callable[[], object]] = {
        "source_language": lambda: chance.choice(LANGUAGES),
        "target_language": lambda: chance.choice(LANGUAGES),
        "source_prefix": lambda: chance.choices(WORDS, k=chance.choice([0, 1, 2, 10, 10**4])),
        "target_prefix": lambda: chance.choices(WORDS, k=chance.choice([0, 1, 2, 10, 10**4])),
        "text_end": lambda: chance.choice([*WORDS, None]),
        "max_source_tokens": lambda: chance.choice([2, 3, 10**6]),
        "max_target_tokens": lambda: chance.choice([2, 3, 10**6]),
        "compute_type": lambda: chance.choice(["int8", "float16", "auto", "nothing", ""]),
        "tokenizer": lambda: None,
        "bpe": lambda: None,
        "target_code": lambda: chance.choice([None, "code", "target_code"]),
        "normalize": lambda: chance.random() < 0.5,
        "decoder_start_token": lambda: chance.choice(WORDS),
        chance.choice(list(about)): lambda: damage.odd(chance),
    }
    for key in chance.sample(list(values), chance.choice([1, 1, 2, 4])):
        about[key] = values[key]()
    path.write_text(json.dumps(about))
    config = json.loads((folder / "config.json").read_text())
    if "decoder_start_token" in about:
        config["decoder_start_token"] = about["decoder_start_token"]
    (folder / "config.json").write_text(json.dumps(config))


def other_words(folder: Path, chance: random.Random) -> None:
    """Another vocabulary than the model's."""
    path = folder / "shared_vocabulary.json"
    words = json.loads(path.read_text())
    place = chance.randrange(len(words))
    words[place : place + 1] = chance.choice([
        [], [words[place]] * 2, chance.choices(WORDS, k=1), chance.choices(WORDS, k=5), ["a"] * 999,
        words[::-1], [7], [None],
    ])  # fmt: skip
    if chance.random() < 0.3:
        chance.shuffle(words)
    path.write_text(json.dumps(words))


def other_merges(folder: Path, chance: random.Random) -> None:
    (folder / "code").write_text(chance.choice(CODES), encoding="utf-8")


def another_configuration(folder: Path, chance: random.Random) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[chance.choice([*config, "layer_norm_epsilon", "vmap"])] = chance.choice(
        [damage.odd(chance), chance.choice(WORDS)]
    )
    path.write_text(json.dumps(config))


def more_files(folder: Path, chance: random.Random) -> None:
    """What CTranslate2 looks for, too."""
    name = chance.choice(["vmap.txt", "source_vocabulary.json", "shared_vocabulary.txt"])
    (folder / name).write_text(chance.choice(["", "x", "[]", '["a"]', "s1\tt1\n", "\0" * 100]))


def other_sums(folder: Path, chance: random.Random) -> None:
    """Of files that are elsewhere, or no sums."""
    path = folder / "fairseq_mem.json"
    about = json.loads(path.read_text())
    name = chance.choice(["../model.pt", "/etc/passwd", "fairseq_mem.json", ".", "", "model.bin\n"])
    about["sha256"][name] = chance.choice([about["sha256"]["model.bin"], "0" * 64, "x", None])
    path.write_text(json.dumps(about))


FOLDERS = [
    what_is_said, what_is_said, what_is_said, other_words, other_merges, another_configuration,
    more_files, other_sums,
]  # fmt: skip


@pytest.mark.tries(sample=3, soak=300)
def test_an_exported_model(seed, place):
    """Whose sums are right: then no damage explains what it says."""
    chance = random.Random(seed)
    folder = place / "exported"
    changes = [chance.choice(FOLDERS) for _ in range(chance.choice([1, 1, 2]))]
    for change in changes:
        change(folder, chance)
    path = folder / "fairseq_mem.json"
    about = json.loads(path.read_text())
    if isinstance(about.get("sha256"), dict):
        there = set(os.listdir(folder)) - {path.name}
        about["sha256"] |= {name: sha256(folder / name) for name in there & about["sha256"].keys()}
        path.write_text(json.dumps(about))
    door = ("translate exported", "score exported", "contrastive")[seed % 3]
    check(place, door, [change.__name__ for change in changes])


# ---------------------------------------------------------------- archives


def a_member(chance: random.Random, place: Path) -> tarfile.TarInfo:
    """Of an archive that wants to write elsewhere."""
    inside = "model/" if chance.random() < 0.5 else ""
    outside = [f"{place}/ran", "../ran", "../../ran", "a/../../../ran", f"{inside}link/ran", "ran"]
    member = tarfile.TarInfo(chance.choice([f"{inside}link", f"{inside}model.pt", *outside]))
    member.type = chance.choice([
        tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
        tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    ])  # fmt: skip
    member.linkname = chance.choice(
        [str(place), "..", "../..", f"{inside}link", "/etc/passwd", "."]
    )
    member.mode = chance.choice([0o644, 0o4777, 0])
    return member


@pytest.mark.tries(sample=1, soak=60)
def test_an_archive_of_a_model(seed, place, tmp_path, monkeypatch):
    """``from_pretrained`` unpacks it: into its folder, and nowhere else."""
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    chance = random.Random(seed)
    kind = chance.choice(["gz", "bz2"])
    with tarfile.open("model.tar", f"w:{kind}") as archive:
        archive.add("data", "model/data")
        for _ in range(chance.randrange(1, 6)):
            archive.addfile(a_member(chance, place))
        archive.add("model.pt", "model/model.pt")
    before = {path for path in tmp_path.rglob("*") if unpacked not in path.parents}

    def load() -> None:
        MemTransformerModel.from_pretrained("model.tar", "model.pt", "data")

    done = apart(load)
    assert done.status in (0, 1), done
    after = {path for path in tmp_path.rglob("*") if unpacked not in path.parents}
    assert after == before
