"""`fairseq-mem export`: CTranslate2 computes and finds what fairseq does."""

import json
import math
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.sequence_generator import SequenceGenerator
from helpers.commands import run
from helpers.exports import BOTH, LEARNED, PRE_NORM, SHARED, edit, load
from helpers.trained_models import batch_of, texts, train

from fairseq_mem.tools import conversion
from fairseq_mem.tools import export as exporter

ctranslate2 = pytest.importorskip("ctranslate2")
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


def test_integers_are_computed_with_in_spite_of_position_codes_in_float16(small_model, tmp_path):
    exporter.export(small_model / "model.pt", small_model, tmp_path / "out", "int8")
    about = json.loads((tmp_path / "out" / "fairseq_mem.json").read_text(encoding="utf-8"))
    assert load(tmp_path / "out", about).compute_type == about["compute_type"] == "int8_float32"


def test_the_translator_computes_as_the_folder_says(small_model, tmp_path):
    serve = pytest.importorskip("fairseq_mem_serve")
    exporter.export(small_model / "model.pt", small_model, tmp_path / "out", "int8")
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


# ------------------------------------------------------------ all or nothing


@pytest.mark.cli
def test_the_command(small_model, tmp_path):
    done = run(
        "fairseq-mem", "export", small_model / "model.pt", small_model, "--out", "out",
        "--quantization", "int8", cwd=tmp_path,
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
