"""`fairseq-mem export`: what the folder says, and that it is there whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from helpers.exports import BOTH, LONGEST, SHARED, edit, load, refusal
from helpers.trained_models import dictionary, train

from fairseq_mem import UserError
from fairseq_mem.dictionaries import fingerprint
from fairseq_mem.tools import cli
from fairseq_mem.tools import export as exporter

ctranslate2 = pytest.importorskip("ctranslate2")


def test_the_folder_says_all_that_a_translator_needs(copy_of_small_model, tmp_path):
    data, out = copy_of_small_model, tmp_path / "new" / "out"
    (data / "code").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (data / "settings.txt").write_text(
        "# sacremoses 0\nsource de\nnormalize yes\nnonprinting remove\n"
    )
    exporter.export(data / "model.pt", data, out, "int8")
    assert json.loads((out / "fairseq_mem.json").read_text(encoding="utf-8")) == {
        "format": 1,
        "fairseq_mem": exporter.__version__,
        "quantization": "int8",
        "compute_type": "int8_float32",
        "source_language": "de",
        "target_language": "en",
        "source_prefix": ["<mem-0>", "<mem-1>", "<mem-2>"],
        "decoder_start_token": "<decoder-mem-0>",
        "target_prefix": ["<decoder-mem-1>", "</s>"],
        "text_end": None,
        "eos": "</s>",
        "tokenizer": "moses",
        "normalize": True,
        "remove_nonprinting": True,
        "nfc": False,
        "bpe": "subword_nmt",
        "target_code": "code",
        "dictionaries": {
            "source": fingerprint(dictionary("de", joined=True)),
            "target": fingerprint(dictionary("en", joined=True)),
        },
        "max_source_tokens": LONGEST,
        "max_target_tokens": LONGEST,
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in out.iterdir()
            if path.name != "fairseq_mem.json"
        },
    }
    assert sorted(path.name for path in out.iterdir()) == [
        "code", "config.json", "fairseq_mem.json", "model.bin", "shared_vocabulary.json",
    ]  # fmt: skip
    assert (out / "code").read_bytes() == (data / "code").read_bytes()
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["add_source_eos"] and config["decoder_start_token"] == "<decoder-mem-0>"
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def test_whether_characters_are_composed(copy_of_small_model, tmp_path):
    """As the settings say; data that was made before says nothing, and without Moses never."""
    data = copy_of_small_model
    (data / "settings.txt").write_text("source de\nnormalize yes\nnfc yes\n")
    for number, (tokenizer, nfc) in enumerate(((None, True), ("none", False))):
        exporter.export(data / "model.pt", data, tmp_path / f"{number}", tokenizer=tokenizer)
        about = json.loads((tmp_path / f"{number}/fairseq_mem.json").read_text(encoding="utf-8"))
        assert about["nfc"] is nfc


def test_data_of_unknown_making(small_model, tmp_path):
    """Neither codes nor settings: words as they are; options say otherwise."""
    exporter.export(small_model / "model.pt", small_model, tmp_path / "plain")
    about = json.loads((tmp_path / "plain" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert (about["tokenizer"], about["normalize"], about["bpe"]) == (None, False, None)
    assert not (tmp_path / "plain" / "code").exists()
    (tmp_path / "merges").write_text("#version: 0.2\na b\n", encoding="utf-8")
    arguments = ["--out", tmp_path / "told", "--tokenizer", "moses", "--bpe-codes"]
    cli.main(
        list(
            map(
                str,
                ["export", small_model / "model.pt", small_model, *arguments, tmp_path / "merges"],
            )
        )
    )
    about = json.loads((tmp_path / "told" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert (about["tokenizer"], about["normalize"], about["bpe"]) == ("moses", False, "subword_nmt")
    assert (tmp_path / "told" / "code").is_file()


def test_merges_of_the_source_language(copy_of_small_model, tmp_path):
    """A model may go the opposite way of data whose languages have merges of their own."""
    data = copy_of_small_model
    for name in ("code", "code.de", "code.en"):
        (data / name).write_text(f"#version: 0.2\n{name} x\n", encoding="utf-8")
    exporter.export(data / "model.pt", data, tmp_path / "out")
    assert "code.de x" in (tmp_path / "out" / "code").read_text(encoding="utf-8")


def test_the_longest_translation_is_the_decoders(tmp_path):
    train(tmp_path, [*BOTH, *SHARED, "--max-target-positions", "20"])
    exporter.export(tmp_path / "model.pt", tmp_path, tmp_path / "out")
    about = json.loads((tmp_path / "out/fairseq_mem.json").read_text(encoding="utf-8"))
    assert (about["max_source_tokens"], about["max_target_tokens"]) == (LONGEST, 20)


def test_the_longest_source_and_translation(small_model, tmp_path):
    """Memory comes on top of the positions that the text has; not one more."""
    out = tmp_path / "out"
    exporter.export(small_model / "model.pt", small_model, out)
    about = json.loads((out / "fairseq_mem.json").read_text(encoding="utf-8"))
    translator, forced = load(out, about), len(about["target_prefix"])

    def translate(words: int, length: int) -> int:
        (result,) = translator.translate_batch(
            [about["source_prefix"] + ["s1"] * words],
            target_prefix=[about["target_prefix"]],
            min_decoding_length=forced + length,
            max_decoding_length=forced + length,
            max_input_length=0,
        )
        return len(result.hypotheses[0]) - forced

    assert translate(LONGEST - 1, LONGEST) == LONGEST
    with pytest.raises(RuntimeError, match="position"):
        translate(LONGEST, 5)
    with pytest.raises(RuntimeError, match="position"):
        translate(5, LONGEST + 1)


def test_languages_that_only_the_data_tells(copy_of_small_model, tmp_path):
    state = torch.load(copy_of_small_model / "model.pt")
    state["cfg"]["task"]["source_lang"] = state["cfg"]["task"]["target_lang"] = None
    torch.save(state, copy_of_small_model / "model.pt")
    assert "holds no binarised text" in refusal(copy_of_small_model, tmp_path)
    (copy_of_small_model / "test.de-en.de.idx").touch()
    exporter.export(copy_of_small_model / "model.pt", copy_of_small_model, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert (about["source_language"], about["target_language"]) == ("de", "en")


def test_a_word_of_the_dictionary_may_look_like_memory(tmp_path):
    checkpoint = train(tmp_path, ["--memory-tokens", "2"])
    for language in ("de", "en"):
        path = tmp_path / f"dict.{language}.txt"
        path.write_text(path.read_text().replace("s3 ", "<mem-1> "), encoding="utf-8")
    edit(checkpoint, "memory_dictionaries", None)  # of the words that were there
    exporter.export(checkpoint, tmp_path, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert about["source_prefix"] == ["<<mem-0>>", "<<mem-1>>"]


# ------------------------------------------------------------ all or nothing


def test_what_is_there_stays_unless_told_otherwise(small_model, tmp_path):
    out = tmp_path / "out"
    exporter.export(small_model / "model.pt", small_model, out)
    (out / "mine").touch()
    before = (out / "model.bin").stat()
    with pytest.raises(UserError, match="is there already; give --force"):
        exporter.export(small_model / "model.pt", small_model, out, "int8")
    assert (out / "model.bin").stat() == before and (out / "mine").exists()
    exporter.export(small_model / "model.pt", small_model, out, "int8", force=True)
    assert (out / "model.bin").stat().st_size < before.st_size and not (out / "mine").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    for path in (other, other / "thesis.tex"):
        with pytest.raises(UserError, match="holds no export"):
            exporter.export(small_model / "model.pt", small_model, path, force=True)
    assert (other / "thesis.tex").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_nothing_half_written(small_model, tmp_path, monkeypatch, there):
    out = tmp_path / "out"
    if there:
        exporter.export(small_model / "model.pt", small_model, out)
    foreign = tmp_path / "out.partial"
    foreign.mkdir()
    before = {path: path.read_bytes() for path in out.glob("*")}
    save = ctranslate2.specs.TransformerSpec.save

    def full(spec, folder):
        save(spec, folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ctranslate2.specs.TransformerSpec, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        cli.main(
            ["export", *map(str, [small_model / "model.pt", small_model, "--out", out, "--force"])]
        )
    assert {path: path.read_bytes() for path in out.glob("*")} == before
    assert set(tmp_path.iterdir()) == ({out, foreign} if there else {foreign})


def test_an_export_that_cannot_come_into_place_leaves_the_old_one(
    small_model, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    exporter.export(small_model / "model.pt", small_model, out)
    before = (out / "model.bin").read_bytes()
    rename = Path.rename

    def stuck(path, goal):
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, goal)

    monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(OSError, match="Input/output"):
        exporter.export(small_model / "model.pt", small_model, out, "int8", force=True)
    assert (out / "model.bin").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_link_points_to_is_replaced(small_model, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    exporter.export(small_model / "model.pt", small_model, real)
    size = (real / "model.bin").stat().st_size
    link.symlink_to("real")
    for _ in range(2):
        exporter.export(small_model / "model.pt", small_model, link, "int8", force=True)
    assert (real / "model.bin").stat().st_size < size
    assert link.is_symlink() and set(tmp_path.iterdir()) == {real, link}
