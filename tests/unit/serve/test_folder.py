"""Exported folders: what they say is done, and those that are no models are refused."""

import json
import shutil
from pathlib import Path

import pytest
from fairseq_mem_serve import (
    load_translator,
)


@pytest.fixture
def folder(translator_files, tmp_path):
    return Path(shutil.copytree(translator_files.exported, tmp_path / "model"))


def describe(folder, **changes):
    path = folder / "fairseq_mem.json"
    description = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in description.items() if v != "gone"}))


def test_normalisation_can_be_off(folder):
    describe(folder, normalize=False)
    assert load_translator(folder).split("„eins") != ["&quot;", "eins"]
    describe(folder, normalize="gone")
    assert load_translator(folder).split("„eins")[0] == "&quot;"


def test_control_characters_are_removed_where_the_folder_says_so(folder):
    soft = "ei\u00adns"
    plain = load_translator(folder).split("eins")
    assert load_translator(folder).split(soft) != plain  # an older export says nothing
    describe(folder, remove_nonprinting=True)
    assert load_translator(folder).split(soft) == plain


def test_characters_are_composed_where_the_folder_says_so(folder):
    plain = load_translator(folder).split("fünf")
    assert load_translator(folder).split("fu\u0308nf") != plain  # an older export says nothing
    describe(folder, nfc=True)
    assert load_translator(folder).split("fu\u0308nf") == plain


def other_words(folder, change):
    """The vocabularies, and their sums if there are any."""
    for path in folder.glob("*_vocabulary.json"):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    describe(folder, sha256="gone")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "fairseq_mem.json").unlink(), FileNotFoundError, "fairseq-mem export"),
        (lambda f: (f / "fairseq_mem.json").write_text("{"), ValueError, "is damaged"),
        (lambda f: (f / "fairseq_mem.json").write_text("[]"), ValueError, "is damaged"),
        (lambda f: describe(f, format=2), ValueError, "format 2, .* reads format 1"),
        (lambda f: describe(f, target_prefix="gone"), ValueError, "lacks target_prefix"),
        (
            lambda f: describe(f, source_prefix=["<mem-77>"]),
            ValueError,
            "lacks its memory, <mem-77",
        ),
        (lambda f: (f / "source_vocabulary.json").unlink(), ValueError, "lacks its source vocab"),
        (
            lambda f: other_words(f, lambda words: [*words, "more"]),
            ValueError,
            r"vocabulary.json is damaged: (\d+) words, and the model has \d+; export",
        ),
        (lambda f: other_words(f, lambda words: words[:-1]), ValueError, "the model has"),
        (lambda f: (f / "vmap.txt").write_text(""), ValueError, "vmap.txt is of no export"),
        (lambda f: describe(f, decoder_start_token="</s>"), ValueError, "different decoder_start"),
        (lambda f: describe(f, text_end="<e>"), ValueError, "lacks its memory, <e>"),
        (lambda f: describe(f, compute_type="int3"), ValueError, "cannot load .*int3"),
        (
            lambda f: describe(f, normalize=[1] * 999),
            ValueError,
            r"fairseq_mem.json is damaged: \$.normalize is \[1, 1, .*\.\.\.; export",
        ),
        (lambda f: describe(f, sha256={"../code": "0" * 64}), ValueError, "is damaged: .*sha256"),
        (lambda f: describe(f, sha256={"code": "0" * 64}), ValueError, "code is damaged: its SHA"),
        (lambda f: (f / "code").unlink(), ValueError, "code is missing"),
        (
            lambda f: (f / "code").write_text("#version: 9.9\na b\n"),
            ValueError,
            "code holds no BPE",
        ),
        (lambda f: (f / "code").write_text("x"), ValueError, "code holds no BPE merges"),
        (lambda f: (f / "code").write_bytes(b"\xff"), ValueError, "code holds no BPE merges"),
        (lambda f: (f / "model.bin").unlink(), ValueError, "model.bin is missing"),
        (lambda f: (f / "model.bin").write_bytes(b"x"), ValueError, "cannot load .*model.bin"),
    ],
)
def test_folders_that_are_no_models(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        load_translator(folder)
