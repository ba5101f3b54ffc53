"""`fairseq-mem export`: CTranslate2 computes and finds what fairseq does, or it is refused."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.sequence_generator import SequenceGenerator
from helpers.commands import run
from helpers.trained_models import batch_of, dictionary, texts, train

from fairseq_mem import UserError
from fairseq_mem.dictionaries import fingerprint
from fairseq_mem.tools import cli, conversion
from fairseq_mem.tools import export as exporter

ctranslate2 = pytest.importorskip("ctranslate2")

LONGEST = 24  # positions of the text
BOTH = ["--memory-tokens", "3", "--memory-decoder-tokens", "2"]
SHARED = ["--share-all-embeddings"]
PRE_NORM = ["--encoder-normalize-before", "--decoder-normalize-before"]
LEARNED = ["--encoder-learned-pos", "--decoder-learned-pos"]
VARIANTS = {
    "encoder": ["--memory-tokens", "3", *SHARED],
    "decoder": ["--memory-decoder-tokens", "2", *SHARED],
    "both, shared": [*BOTH, *SHARED],
    "both, separate": BOTH,
    "tied output, pre-norm, learned": [
        *BOTH, *PRE_NORM, *LEARNED, "--share-decoder-input-output-embed",
    ],
    "memory positions": [*BOTH, *SHARED, "--memory-positions"],
    "memory positions, learned, unscaled": [
        *BOTH, *LEARNED, "--memory-positions", "--no-scale-embedding", *PRE_NORM,
    ],
    "one slot each": [
        "--memory-tokens", "1", "--memory-decoder-tokens", "1", *PRE_NORM,
        "--no-decoder-final-norm", "--activation-fn", "gelu",
    ],
    "two different sides": [
        *BOTH, "--encoder-embed-dim", "32", "--encoder-layers", "3", "--encoder-attention-heads",
        "4", "--encoder-normalize-before", "--activation-fn", "tanh",
    ],
    "no memory": ["--layernorm-embedding", *SHARED, "--activation-fn", "gelu_accurate"],
    "fairseq's own": ["--arch", "transformer", *PRE_NORM],
}  # fmt: skip


def edit(checkpoint: Path, name: str, value: Any) -> None:
    """Change one of the options of a checkpoint's model."""
    state = torch.load(checkpoint)
    setattr(state["cfg"]["model"], name, value)
    torch.save(state, checkpoint)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder with a small model with both memories (``model.pt``) and its dictionaries."""
    folder = tmp_path_factory.mktemp("small")
    train(folder, [*BOTH, *SHARED])
    return folder


@pytest.fixture
def copy_of_small(small, tmp_path) -> Path:
    return shutil.copytree(small, tmp_path / "copy")


# ------------------------------------------------------------ two searches


class Search:
    """What both are told."""

    beam, penalty, longest = 4, 1.0, 20


def search_fairseq(checkpoint: Path, sources: list[list[str]]) -> list[list[tuple]]:
    """All finished hypotheses of every sentence, as words and score."""
    overrides = {"data": str(checkpoint.parent)}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], overrides)
    target_words = task.target_dictionary
    sample = batch_of(task, [(source, []) for source in sources])
    # fairseq forbids the end mark at the first step behind the softmax, CTranslate2 before it
    start = torch.full((len(sources), 1), target_words.eos())
    with torch.no_grad():
        first = models[0].eval()(**{**sample["net_input"], "prev_output_tokens": start})[0]
    gained = -torch.log1p(-first[:, 0].softmax(-1)[:, target_words.eos()])
    generator = SequenceGenerator(
        models, target_words, Search.beam, max_len_b=Search.longest, len_penalty=Search.penalty
    )
    found = generator.generate(models, sample)
    hypotheses: dict[int, list[tuple]] = {}
    for number, more, beams in zip(sample["id"].tolist(), gained.tolist(), found, strict=True):
        hypotheses[number] = [
            (
                [target_words[token] for token in beam["tokens"]],
                beam["score"].item() + more / len(beam["tokens"]) ** Search.penalty,
            )
            for beam in beams
        ]
    return [hypotheses[number] for number in range(len(sources))]


def load(folder: Path, about: dict[str, Any]) -> Any:
    return ctranslate2.Translator(str(folder), compute_type=about["compute_type"], intra_threads=1)


def search_ctranslate2(folder: Path, sources: list[list[str]]) -> list[list[tuple]]:
    """The same with an exported model, as the exporter's description says."""
    about = json.loads((folder / "fairseq_mem.json").read_text(encoding="utf-8"))
    forced = len(about["target_prefix"])
    found = load(folder, about).translate_batch(
        [about["source_prefix"] + source for source in sources],
        target_prefix=[about["target_prefix"]] * len(sources) if forced else None,
        beam_size=Search.beam,
        num_hypotheses=Search.beam,
        length_penalty=Search.penalty,
        max_decoding_length=forced + Search.longest + 1,
        min_decoding_length=forced + 1,
        return_scores=True,
        return_end_token=True,
    )
    return [
        [
            (words[forced:], score * (len(words) / (len(words) - forced)) ** Search.penalty)
            for words, score in zip(result.hypotheses, result.scores)
        ]
        for result in found
    ]


UNSEEN = [source for source, _ in texts(24, seed=99)]


@pytest.fixture(scope="module", params=["encoder", "both, separate"])
def trained_model(request, tmp_path_factory) -> Path:
    """A checkpoint that translates most words right."""
    return train(tmp_path_factory.mktemp("trained"), VARIANTS[request.param], updates=None)


def test_the_same_translations_and_scores(trained_model, tmp_path):
    exporter.export(trained_model, trained_model.parent, tmp_path / "out")
    theirs, ours = (
        search_fairseq(trained_model, UNSEEN),
        search_ctranslate2(tmp_path / "out", UNSEEN),
    )
    assert len({tuple(found[0][0]) for found in theirs}) > 5  # it does read the sources
    compared = 0
    for expected, found in zip(theirs, ours, strict=True):
        assert found[0][0] == expected[0][0]
        scores = {tuple(words): score for words, score in expected}
        for words, score in found:
            if tuple(words) in scores:
                compared += 1
                assert score == pytest.approx(scores[tuple(words)], abs=1e-3)
    # When several end in the last step, CTranslate2 keeps the best of all, fairseq the first ones.
    assert compared >= 0.75 * Search.beam * len(UNSEEN)


# ------------------------------------------------------------ the same probabilities


def assert_same_probabilities(checkpoint: Path, folder: Path) -> None:
    """Of every word of random targets, teacher-forced, on both sides."""
    overrides = {"data": str(checkpoint.parent)}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], overrides)
    pairs = texts(24, seed=99)
    batch = batch_of(task, pairs)
    with torch.no_grad():
        log_probs = models[0].eval()(**batch["net_input"])[0].log_softmax(-1)
    expected = log_probs.gather(-1, batch["target"].unsqueeze(-1)).squeeze(-1)
    about = json.loads((folder / "fairseq_mem.json").read_text(encoding="utf-8"))
    found = load(folder, about).score_batch(
        [about["source_prefix"] + source for source, _ in pairs],
        [about["target_prefix"] + target for _, target in pairs],
    )
    forced = len(about["target_prefix"])
    for number, row in zip(batch["id"].tolist(), expected, strict=True):
        length = len(pairs[number][1]) + 1  # with the end mark
        ours = torch.tensor(found[number].log_probs[forced:])
        torch.testing.assert_close(ours, row[:length], rtol=0, atol=1e-4)


@pytest.mark.parametrize("flags", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_same_probabilities(tmp_path, flags):
    checkpoint = train(tmp_path, flags)
    exporter.export(checkpoint, tmp_path, tmp_path / "out")
    assert_same_probabilities(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("flags", [[], LEARNED], ids=["sinusoidal", "learned"])
def test_fewer_slots_than_were_trained(tmp_path, flags):
    """Text keeps the position codes that it was trained with."""
    checkpoint = train(tmp_path, [*BOTH, *SHARED, "--memory-positions", *flags])
    edit(checkpoint, "memory_tokens", 2)
    edit(checkpoint, "memory_decoder_tokens", 0)
    exporter.export(checkpoint, tmp_path, tmp_path / "out")
    assert_same_probabilities(checkpoint, tmp_path / "out")


def test_half_precision_and_integers_are_close_to_float32(trained_model, tmp_path):
    sizes, scores = {}, {}
    for quantization in exporter.QUANTIZATIONS:
        folder = tmp_path / quantization
        exporter.export(trained_model, trained_model.parent, folder, quantization)
        sizes[quantization] = (folder / "model.bin").stat().st_size
        scores[quantization] = [found[0][1] for found in search_ctranslate2(folder, UNSEEN)]
        about = json.loads((folder / "fairseq_mem.json").read_text(encoding="utf-8"))
        assert about["quantization"] == quantization
    for quantization, found in scores.items():
        far = [abs(a - b) for a, b in zip(found, scores["float32"], strict=True)]
        assert sum(far) / len(far) < 0.1, quantization
    assert sizes["int8"] < sizes["int8_float32"] < sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["float16"] == sizes["bfloat16"]


def test_integers_are_computed_with_in_spite_of_position_codes_in_float16(small, tmp_path):
    exporter.export(small / "model.pt", small, tmp_path / "out", "int8")
    about = json.loads((tmp_path / "out" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert load(tmp_path / "out", about).compute_type == about["compute_type"] == "int8_float32"


def test_the_translator_computes_as_the_folder_says(small, tmp_path):
    serve = pytest.importorskip("fairseq_mem_serve")
    exporter.export(small / "model.pt", small, tmp_path / "out", "int8")
    path = tmp_path / "out" / "fairseq_mem.json"
    for told, asked, used in (
        ("int8_float32", "default", "int8_float32"),
        ("float32", "default", "float32"),
        ("float32", "int8_float32", "int8_float32"),
    ):
        about = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(about | {"compute_type": told}), encoding="utf-8")
        translator = serve.load_translator(tmp_path / "out", compute_type=asked, threads=1)
        assert translator._engine._model.compute_type == used


# ------------------------------------------------------------ what is in the folder


def test_the_folder_says_all_that_a_translator_needs(copy_of_small, tmp_path):
    data, out = copy_of_small, tmp_path / "new" / "out"
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


def test_whether_characters_are_composed(copy_of_small, tmp_path):
    """As the settings say; data that was made before says nothing, and without Moses never."""
    data = copy_of_small
    (data / "settings.txt").write_text("source de\nnormalize yes\nnfc yes\n")
    for number, (tokenizer, nfc) in enumerate(((None, True), ("none", False))):
        exporter.export(data / "model.pt", data, tmp_path / f"{number}", tokenizer=tokenizer)
        about = json.loads((tmp_path / f"{number}/fairseq_mem.json").read_text(encoding="utf-8"))
        assert about["nfc"] is nfc


def test_data_of_unknown_making(small, tmp_path):
    """Neither codes nor settings: words as they are; options say otherwise."""
    exporter.export(small / "model.pt", small, tmp_path / "plain")
    about = json.loads((tmp_path / "plain" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert (about["tokenizer"], about["normalize"], about["bpe"]) == (None, False, None)
    assert not (tmp_path / "plain" / "code").exists()
    (tmp_path / "merges").write_text("#version: 0.2\na b\n", encoding="utf-8")
    arguments = ["--out", tmp_path / "told", "--tokenizer", "moses", "--bpe-codes"]
    cli.main(list(map(str, ["export", small / "model.pt", small, *arguments, tmp_path / "merges"])))
    about = json.loads((tmp_path / "told" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert (about["tokenizer"], about["normalize"], about["bpe"]) == ("moses", False, "subword_nmt")
    assert (tmp_path / "told" / "code").is_file()


def test_merges_of_the_source_language(copy_of_small, tmp_path):
    """A model may go the opposite way of data whose languages have merges of their own."""
    data = copy_of_small
    for name in ("code", "code.de", "code.en"):
        (data / name).write_text(f"#version: 0.2\n{name} x\n", encoding="utf-8")
    exporter.export(data / "model.pt", data, tmp_path / "out")
    assert "code.de x" in (tmp_path / "out" / "code").read_text(encoding="utf-8")


def test_the_longest_source_and_translation(small, tmp_path):
    """Memory comes on top of the positions that the text has; not one more."""
    out = tmp_path / "out"
    exporter.export(small / "model.pt", small, out)
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


def test_languages_that_only_the_data_tells(copy_of_small, tmp_path):
    state = torch.load(copy_of_small / "model.pt")
    state["cfg"]["task"]["source_lang"] = state["cfg"]["task"]["target_lang"] = None
    torch.save(state, copy_of_small / "model.pt")
    assert "holds no binarised text" in refusal(copy_of_small, tmp_path)
    (copy_of_small / "test.de-en.de.idx").touch()
    exporter.export(copy_of_small / "model.pt", copy_of_small, tmp_path / "out")
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


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("memory_update", "ctrl", "--memory-update ctrl"),
        ("memory_update", "bottleneck", "--memory-update bottleneck"),
        ("memory_lesion", "no-read", "--memory-lesion no-read"),
        ("layernorm_embedding", True, "--layernorm-embedding would normalise memory too"),
        ("adaptive_softmax_cutoff", "10,20", "adaptive softmax"),
        ("cross_self_attention", True, "--cross-self-attention"),
        ("no_cross_attention", True, "--no-cross-attention"),
        ("no_token_positional_embeddings", True, "--no-token-positional-embeddings"),
        ("activation_fn", "relu_squared", "--activation-fn relu_squared"),
        ("quant_noise_pq", 0.1, "--quant-noise-pq"),
        ("quant_noise_scalar", 0.1, "--quant-noise-scalar"),
        ("base_layers", 1, "--base-layers"),
        ("encoder_xformers_att_config", "{'name': 'x'}", "xformers"),
        ("decoder_output_dim", 32, "--decoder-output-dim"),
        ("_name", "transformer_lm", "its architecture is transformer_lm"),
        ("_name", "somebody_elses", "its architecture is somebody_elses"),
    ],
)
def test_what_ctranslate2_cannot_express_is_refused(copy_of_small, tmp_path, name, value, reason):
    edit(copy_of_small / "model.pt", name, value)
    message = refusal(copy_of_small, tmp_path)
    assert reason in message
    assert "transformer and mem_transformer models (--memory-update shared)" in message


def test_a_parameter_that_nobody_would_look_at_is_refused(copy_of_small, tmp_path):
    """Options that are none of `transformer`'s, but are obeyed."""
    checkpoint = copy_of_small / "model.pt"
    edit(checkpoint, "scale_fc", True)
    state = torch.load(checkpoint)
    for layer in range(2):
        for name, value in (("weight", torch.ones(32)), ("bias", torch.zeros(32))):
            state["model"][f"decoder.layers.{layer}.ffn_layernorm.{name}"] = value
    torch.save(state, checkpoint)
    assert "has no decoder.layers.0.ffn_layernorm.weight" in refusal(copy_of_small, tmp_path)


def test_another_task_is_refused(copy_of_small, tmp_path):
    state = torch.load(copy_of_small / "model.pt")
    state["cfg"]["task"]["_name"] = "translation_lev"
    torch.save(state, copy_of_small / "model.pt")
    assert "its task is translation_lev" in refusal(copy_of_small, tmp_path)


def refusal(folder: Path, tmp_path: Path, *arguments: object) -> str:
    """What the command says, in one line; it has left nothing behind."""
    out = tmp_path / "nothing" / "out"
    words = ["export", folder / "model.pt", folder, "--out", out, *arguments]
    with pytest.raises(UserError) as stop:
        cli.main(list(map(str, words)))
    assert not out.parent.exists()
    assert "\n" not in str(stop.value)
    return str(stop.value)


def test_files_that_do_not_fit(copy_of_small, tmp_path):
    data = copy_of_small
    with pytest.raises(UserError, match=r"there is no checkpoint .*nowhere\.pt"):
        exporter.export(tmp_path / "nowhere.pt", data, tmp_path / "out")
    with pytest.raises(UserError, match="nowhere is no folder"):
        exporter.export(data / "model.pt", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"--bpe-codes .*nowhere: there is no such file"):
        exporter.export(data / "model.pt", data, tmp_path / "out", codes=tmp_path / "nowhere")
    dictionary = data / "dict.en.txt"
    dictionary.write_text(dictionary.read_text() + "more 1\n", encoding="utf-8")
    assert "dict.en.txt has 29 words, the model 28" in refusal(data, tmp_path)
    dictionary.unlink()
    assert "dict.en.txt is missing" in refusal(data, tmp_path)
    (data / "model.pt").write_bytes(b"PK no checkpoint")
    assert "model.pt is damaged" in refusal(data, tmp_path)
    torch.save({"model": {}}, data / "model.pt")
    assert "is no checkpoint that fairseq can read" in refusal(data, tmp_path)


@pytest.mark.parametrize("spoil", ["numbers", "bytes", "width", "settings"])
def test_data_and_checkpoints_that_fairseq_stumbles_over(copy_of_small, tmp_path, spoil):
    data, words = copy_of_small, copy_of_small / "dict.en.txt"
    if spoil == "numbers":
        words.write_text(words.read_text().replace(" 1\n", " one\n"), encoding="utf-8")
    elif spoil == "bytes":
        words.write_bytes(words.read_bytes().replace(b"s3 ", b"\xff "))
    elif spoil == "width":
        edit(data / "model.pt", "decoder_ffn_embed_dim", 48)
    else:
        (data / "settings.txt").write_bytes(b"source \xff\n")
    message = refusal(data, tmp_path)
    if spoil == "settings":
        assert f"{data / 'settings.txt'} is damaged" in message
    else:
        assert f"cannot load {data / 'model.pt'} with the dictionaries of {data}: " in message


@pytest.mark.parametrize(
    "text",
    [b"no merges\n of three words\n", b"\xff", b"#version: 9.9\na b\n", b"#version: x\na b\n"],
)
def test_files_that_hold_no_merges(copy_of_small, tmp_path, text, capsys):
    (tmp_path / "merges").write_bytes(text)
    message = refusal(copy_of_small, tmp_path, "--bpe-codes", tmp_path / "merges")
    assert f"{tmp_path / 'merges'} holds no BPE merges" in message
    assert capsys.readouterr().err == ""


def test_the_quantization_is_checked(small, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        arguments = [small / "model.pt", small, "--out", tmp_path / "out", "--quantization", "int4"]
        cli.main(list(map(str, ["export", *arguments])))
    assert stop.value.code == 2
    assert "int4" in capsys.readouterr().err


# ------------------------------------------------------------ all or nothing


def test_what_is_there_stays_unless_told_otherwise(small, tmp_path):
    out = tmp_path / "out"
    exporter.export(small / "model.pt", small, out)
    (out / "mine").touch()
    before = (out / "model.bin").stat()
    with pytest.raises(UserError, match="is there already; give --force"):
        exporter.export(small / "model.pt", small, out, "int8")
    assert (out / "model.bin").stat() == before and (out / "mine").exists()
    exporter.export(small / "model.pt", small, out, "int8", force=True)
    assert (out / "model.bin").stat().st_size < before.st_size and not (out / "mine").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    for path in (other, other / "thesis.tex"):
        with pytest.raises(UserError, match="holds no export"):
            exporter.export(small / "model.pt", small, path, force=True)
    assert (other / "thesis.tex").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_nothing_half_written(small, tmp_path, monkeypatch, there):
    out = tmp_path / "out"
    if there:
        exporter.export(small / "model.pt", small, out)
    foreign = tmp_path / "out.partial"
    foreign.mkdir()
    before = {path: path.read_bytes() for path in out.glob("*")}
    save = ctranslate2.specs.TransformerSpec.save

    def full(spec, folder):
        save(spec, folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ctranslate2.specs.TransformerSpec, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        cli.main(["export", *map(str, [small / "model.pt", small, "--out", out, "--force"])])
    assert {path: path.read_bytes() for path in out.glob("*")} == before
    assert set(tmp_path.iterdir()) == ({out, foreign} if there else {foreign})


def test_an_export_that_cannot_come_into_place_leaves_the_old_one(small, tmp_path, monkeypatch):
    out = tmp_path / "out"
    exporter.export(small / "model.pt", small, out)
    before = (out / "model.bin").read_bytes()
    rename = Path.rename

    def stuck(path, goal):
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, goal)

    monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(OSError, match="Input/output"):
        exporter.export(small / "model.pt", small, out, "int8", force=True)
    assert (out / "model.bin").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_link_points_to_is_replaced(small, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    exporter.export(small / "model.pt", small, real)
    size = (real / "model.bin").stat().st_size
    link.symlink_to("real")
    for _ in range(2):
        exporter.export(small / "model.pt", small, link, "int8", force=True)
    assert (real / "model.bin").stat().st_size < size
    assert link.is_symlink() and set(tmp_path.iterdir()) == {real, link}


def test_without_ctranslate2_it_says_what_to_install(small, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ctranslate2>="):
        exporter.export(small / "model.pt", small, tmp_path / "out")


@pytest.mark.cli
def test_the_command(small, tmp_path):
    done = run(
        "fairseq-mem", "export", small / "model.pt", small, "--out", "out", "--quantization",
        "int8", cwd=tmp_path,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    assert line.startswith("out: int8, 0.") and "fairseq-mem translate out" in line
    # fairseq says this when it is imported
    assert [line for line in done.stderr.splitlines() if "tensorboardX" not in line] == []
    assert search_ctranslate2(tmp_path / "out", UNSEEN[:2])


def test_a_slot_is_never_written():
    """Its logit is so low that its probability is an exact zero, in every precision."""
    assert math.exp(conversion.NEVER) == 0.0
    assert torch.tensor(conversion.NEVER).half().isfinite()
