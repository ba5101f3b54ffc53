"""Damaged folders, hundreds of them: ValueError in one line, or a translator; no hang, no crash."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.damage import fifo, flip, folder, missing

pytest.importorskip("ctranslate2")

DAMAGES = 200  # of each kind of export
SERVE = ROOT / "serve"
# A process of its own, for a hang or a crash in C++ not to take the tests with it; its watchdog
# also ends what Python's signals cannot.
CHILD = """
import faulthandler, json, sys
from fairseq_mem_serve import load_translator
for folder in sys.argv[1:]:
    faulthandler.dump_traceback_later(120, exit=True)
    try:
        said = ["works", load_translator(folder, threads=1).translate(["eins zwei.", "zehn"])]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps(said), flush=True)
"""


def load_all(folders: list[Path]) -> list[list]:
    """What becomes of each folder: ["works", translations] or [the exception, its message]."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *folders], capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(SERVE), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(folders), f"{folders[len(said)]} ended it: {done.stderr}"
    return said


# ---------------------------------------------------------------- damages


ODD = [
    None, True, False, 0, -1, 1, 1.5, 10**9, 10**400, "", "x", "</s>", "\0", "x" * 10**5, [], {},
    [None], [1, 2], [["x"]], {"a": 1}, ["<mem-99>"], ["\ud800"],
]  # fmt: skip


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def scramble(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.choice([b"", b"\0" * 9, b"\xff\xfe{}", chance.randbytes(300)]))


def nest(path: Path, chance: random.Random) -> None:
    depth = chance.choice([100, 900, 10**5])
    path.write_text(chance.choice(['{"format": 1, "tokenizer": %s}', "%s"]) % ("[" * depth))
    if chance.random() < 0.7:  # sound JSON, that is
        with path.open("a") as file:
            file.write("]" * depth)


def retype(path: Path, chance: random.Random) -> None:
    """Put an odd value somewhere into a file of JSON."""
    value = json.loads(path.read_text(encoding="utf-8"))
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, odd = chance.choice(list(keys)), copy.deepcopy(chance.choice(ODD))
    if chance.random() < 0.1:
        value = odd
    elif isinstance(value, dict) and isinstance(value[key], list) and chance.random() < 0.5:
        value[key].append(odd)
    else:
        value[key] = odd
    path.write_text(json.dumps(value), encoding="utf-8")


def forget(path: Path, chance: random.Random) -> None:
    """Take a key out of a file of JSON."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(value, dict):
        del value[chance.choice(list(value))]
    path.write_text(json.dumps(value), encoding="utf-8")


def version(path: Path, chance: random.Random) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[0] = f"#version: {chance.choice(['9.9', '0.3', 'x', '', '1' * 5000])}\n"
    path.write_text("".join(lines), encoding="utf-8")


def empty_merges(path: Path, chance: random.Random) -> None:
    path.write_text("#version: 0.2\n</w> </w>\n")


def link(path: Path, chance: random.Random) -> None:
    """To nowhere, to itself, to what never ends, to the file moved elsewhere."""
    moved = path.rename(path.parent.parent / f"{path.parent.name}.{path.name}")
    goals = ["nowhere", path.name, "/dev/zero", "/dev/stdin", f"../{moved.name}"]
    path.symlink_to(chance.choice(goals))


def more(path: Path, chance: random.Random) -> None:
    """What CTranslate2 opens where it is there."""
    for name in ("vmap.txt", "shared_vocabulary.json", "shared_vocabulary.txt"):
        if not (path.parent / name).exists() and chance.random() < 0.6:
            os.mkfifo(path.parent / name)


ANY = [cut, flip, scramble, missing, fifo, folder, link]
KINDS = {
    "fairseq_mem.json": [*ANY, nest, retype, retype, retype, forget],
    "config.json": [*ANY, nest, retype, forget],
    "source_vocabulary.json": [*ANY, nest, retype],
    "target_vocabulary.json": [*ANY, nest, retype],
    "code": [*ANY, version, version, empty_merges],
    "model.bin": [*ANY, flip, flip, cut, more],
}


@pytest.fixture(scope="module", params=["with checksums", "without"])
def exported(request, translator_files, tmp_path_factory):
    """What `fairseq-mem export` writes now, and what says nothing of checksums."""
    if request.param == "without":
        return translator_files.exported
    from fairseq_mem.tools.export import export

    out = tmp_path_factory.mktemp("exported") / "out"
    export(translator_files.checkpoint, translator_files.data, out)
    return out


def test_damaged_folders(exported, tmp_path):
    has_checksums = "sha256" in json.loads((exported / "fairseq_mem.json").read_text())
    plans = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]
    chance = random.Random(14)
    folders = [Path(shutil.copytree(exported, tmp_path / "sound"))]
    did: list[tuple[str, str]] = [("nothing", "sound")]
    for number in range(DAMAGES):
        name, kind = plans[number % len(plans)]
        damaged = shutil.copytree(exported, tmp_path / str(number))
        kind(damaged / name, chance)
        folders.append(damaged)
        did.append((name, kind.__name__))
    results = load_all(folders)
    sound = results[0]
    assert sound[0] == "works" and all(sound[1]), sound
    refused = 0
    for (name, kind), path, (outcome, said) in zip(did, folders, results, strict=True):
        about = (name, kind, path, outcome, said)
        if outcome == "works":
            assert len(said) == 2 and all(isinstance(text, str) for text in said), about
            if has_checksums and name != "fairseq_mem.json":  # then nothing was changed
                unchanged = kind in ("sound", "more") or (
                    (path / name).read_bytes() == (exported / name).read_bytes()
                )
                assert unchanged, about
                assert said == sound[1], about
            continue
        refused += 1
        gone = name == "fairseq_mem.json" and not (path / name).is_file()
        assert outcome == ("FileNotFoundError" if gone else "ValueError"), about
        assert "\n" not in said and len(said) < 400, about
    assert refused > 0.5 * DAMAGES


def test_a_number_of_tokens_that_cannot_be(exported, tmp_path):
    """As the kind that was found: accepted, and every sentence too long."""
    told = []
    for value in (-1, 0, 1, True, "40", None, 10**400):
        changed = Path(shutil.copytree(exported, tmp_path / f"{len(told)}"))
        description = json.loads((changed / "fairseq_mem.json").read_text())
        description["max_source_tokens"] = value
        (changed / "fairseq_mem.json").write_text(json.dumps(description))
        told.append(changed)
    for outcome, said in load_all(told):
        assert outcome == "ValueError"
        assert "fairseq_mem.json is damaged: " in said, said


def test_keys_that_a_later_release_adds_are_accepted(exported, tmp_path):
    changed = Path(shutil.copytree(exported, tmp_path / "later"))
    description = json.loads((changed / "fairseq_mem.json").read_text())
    description |= {"unicode": "nfc", "of_tomorrow": [{"a": None}]}
    (changed / "fairseq_mem.json").write_text(json.dumps(description))
    sound, later = load_all([exported, changed])
    assert later == sound and later[0] == "works"
