"""Damaged files, by every command that reads them: a right result, or one clear line; no more.

Each try damages one file of a folder in one way and runs one command on it, in a copy of this
process with limits on memory and time. Whatever comes: no crash, no hang, nothing half-made.
"""

import random
import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import damage, finished_runs, spoilable
from helpers.apart import Done, apart
from helpers.commands import ROOT

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
    done = apart({**spoilable.OURS, **spoilable.FAIRSEQS}[door])
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


@pytest.mark.tries(sample=2, soak=220)
def test_an_archive(seed, place, right):
    """Its sums tell every change of what counts: the result is refused, or right."""
    chance = random.Random(seed)
    door = CHECKPOINT_DOORS[seed % len(CHECKPOINT_DOORS)]
    kinds = [*damage.BYTES, *damage.BYTES, *damage.PLACES]
    how = spoil(place, "model.pt", kinds, door, chance)
    done = check(place, door, how)
    if done.status == 0 and door in right:
        assert result(place, door, done) == right[door], how


@pytest.mark.tries(sample=2, soak=220)
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


@pytest.mark.tries(sample=3, soak=240)
def test_prepared_data(seed, place):
    chance = random.Random(seed)
    name = list(DATA)[seed % len(DATA)]
    kinds, doors = DATA[name]
    door = chance.choice(doors)
    check(place, door, (name, spoil(place, name, kinds, door, chance)))


@pytest.mark.tries(sample=2, soak=120)
def test_texts(seed, place):
    chance = random.Random(seed)
    name = list(TEXTS)[seed % len(TEXTS)]
    door = chance.choice(TEXTS[name])
    places = [damage.missing, damage.folder, damage.link]  # for a pipe it is right to wait
    kinds = [*damage.BYTES, *places, *[damage.lines] * 8]
    check(place, door, (name, spoil(place, name, kinds, door, chance)))


@pytest.mark.tries(sample=2, soak=160)
def test_an_exported_model(seed, place):
    """As commands say it; `test_export_damaged.py` has the library's answers."""
    chance = random.Random(seed)
    name = list(EXPORTED)[seed % len(EXPORTED)]
    door = chance.choice(["translate exported", "score exported", "contrastive"])
    how = spoil(place, f"exported/{name}", EXPORTED[name], door, chance)
    check(place, door, (name, how))


# ---------------------------------------------------------------- other folders

BERT: dict[str, list[damage.Damage]] = {
    "config.json": [*damage.BYTES, *damage.PLACES, *damage.JSON, damage.retype],
    "tokenizer_config.json": [*damage.BYTES, *damage.PLACES, *damage.JSON],
    "vocab.txt": [*damage.BYTES, *damage.PLACES, *[damage.lines] * 6],
    "model.safetensors": [*damage.BYTES, *damage.PLACES, damage.flip, damage.cut_short],
}
RUNS: dict[str, list[damage.Damage]] = {
    "settings.json": [*damage.BYTES, *damage.PLACES, *damage.JSON],
    "result.json": [*damage.BYTES, *damage.PLACES, *[damage.retype] * 12, damage.nest],
    "hypotheses.txt": [*damage.BYTES, *damage.PLACES, *[damage.lines] * 4],
    "reference.txt": [*damage.BYTES, *damage.PLACES, *[damage.lines] * 4],
}


@pytest.mark.tries(sample=2, soak=160)
def test_a_bert(seed, tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    from helpers import bert_folders

    torch.manual_seed(seed)
    monkeypatch.chdir(tmp_path)
    bert_folders.make(tmp_path / "bert")
    spoilable.OURS["import"] = spoilable.ours("import-bert", "bert", "--out", "out", "--pooler")
    chance = random.Random(seed)
    name = list(BERT)[seed % len(BERT)]
    how = spoil(tmp_path, f"bert/{name}", BERT[name], "import", chance)
    done = check(tmp_path, "import", (name, how))
    files = sorted(path.name for path in (tmp_path / "out").glob("*"))
    assert files == ([] if done.status else ["dict.txt", "flags.txt", "model.pt", "tokenizer.json"])


@pytest.mark.tries(sample=1, soak=60)
def test_the_report_of_runs(seed, tmp_path, monkeypatch):
    """What is wrong with one run is told, and the others are reported."""
    monkeypatch.chdir(tmp_path)
    runs = [
        finished_runs.make_run(tmp_path / "runs" / f"{model}-{number}", model, number)
        for model in ("baseline", "mem-10") for number in (1, 2)
    ]  # fmt: skip
    report = spoilable.ours("report", "runs", "--out", "out", "--n-samples", "20")
    spoilable.OURS["report"] = report
    chance = random.Random(seed)
    name = list(RUNS)[seed % len(RUNS)]
    damaged = chance.choice(runs)
    how = spoil(damaged, name, RUNS[name], "report", chance)
    done = check(tmp_path, "report", (name, how))
    assert done.status == 0, (name, how, done)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "baseline" in text and "BLEU" in text


# ---------------------------------------------------------------- examples


def script(name: str, *words: str) -> Callable[[], object]:
    """A script of an example, in this process."""

    def call() -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *words])
            patch.syspath_prepend(str((ROOT / "examples" / name).parent))
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return 0

    return call


def refused_by_a_script(done: Done, name: str) -> None:
    assert done.status in (0, 1), done
    if done.status:
        assert done.last_line.startswith(f"{Path(name).name}: "), done
        assert "Traceback" not in done.stderr and len(done.last_line) < 700, done


@pytest.mark.tries(sample=1, soak=60)
def test_somebodys_rows(seed, tmp_path, monkeypatch):
    """For the GLUE example."""
    monkeypatch.chdir(tmp_path)
    chance = random.Random(seed)
    kind = chance.choice(["label\tsentence", "label\tsentence1\tsentence2", "score\tsentence"])
    texts = range(kind.count("\t"))
    rows = [
        [str(chance.randrange(2)), *(f"a b {number} {text}" for text in texts)]
        for number in range(40)
    ]
    lines = [kind, *map("\t".join, rows)]
    (tmp_path / "rows.tsv").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "dict.txt").write_text("a 1\nb 1\n")
    name = chance.choice(["rows.tsv", "rows.tsv", "rows.tsv", "model/dict.txt"])
    kinds = [*damage.BYTES, damage.missing, damage.folder, damage.link, *[damage.lines] * 8]
    spoil(tmp_path, name, kinds, "", chance)
    words = ["cache", "out", "--model", "model", "--task", "mine", "--train", "rows.tsv"]
    done = apart(script("glue/glue.py", *words))
    refused_by_a_script(done, "glue.py")
    assert (tmp_path / "out").exists() == (done.status == 0)


@pytest.mark.tries(sample=1, soak=60)
def test_an_archive_of_data(seed, tmp_path, monkeypatch):
    """Whose sum was right when it was fetched."""
    monkeypatch.chdir(tmp_path)
    chance = random.Random(seed)
    name = ("glue/glue.py", "wikitext103/wiki.py")[seed % 2]
    glue = "glue" in name
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "dict.txt").write_text("a 1\nb 1\n")
    (tmp_path / "cache").mkdir()
    path = Path("cache", "RTE.zip" if glue else "wikitext-103-v1.zip")
    rows = "index\tsentence1\tsentence2\tlabel\n" + "0\ta b\tb\tyes\n1\tb\ta\tno\n" * 9
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("RTE/train.tsv", "RTE/dev.tsv"):
            archive.writestr(part, rows)
        for part in ("train", "valid", "test"):
            archive.writestr(f"wikitext-103/wiki.{part}.tokens", " = A = \n\n a b c \n" * 9)
    spoil(tmp_path, str(path), [*damage.BYTES, damage.flip, *damage.PLACES[:1]], "", chance)
    words = ["cache", "out", "--model", "model", "--task", "RTE"]
    done = apart(script(name, *(words if glue else ["unpack", str(path), "out"])))
    refused_by_a_script(done, Path(name).name)
