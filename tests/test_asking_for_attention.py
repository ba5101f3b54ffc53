"""Whoever asks a decoder for attention gets it, by every door that fairseq's own model has."""

from types import SimpleNamespace

import pytest
import torch
from commands import EVERY_SENTENCE, TINY, TRAIN, fairseq, run
from fairseq.criterions.label_smoothed_cross_entropy_with_alignment import (
    LabelSmoothedCrossEntropyCriterionWithAlignment,
)
from toy import build, dictionary, sentences, shifted

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
PREVIOUS = shifted(TARGET)
MODELS = {
    "fairseq": dict(arch="transformer"),
    "encoder": dict(memory_tokens=3),
    "decoder": dict(memory_tokens=0, memory_decoder_tokens=2),
    "both": dict(memory_tokens=3, memory_decoder_tokens=2),
    "ctrl": dict(memory_tokens=3, memory_update="ctrl"),
    "ctrl-shared": dict(memory_tokens=3, memory_update="ctrl-shared"),
    "bottleneck": dict(memory_tokens=3, memory_update="bottleneck"),
}
every_model = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)


def attention(model, **asked):
    return model(SOURCE, None, PREVIOUS, **asked)[1]["attn"][0]


@every_model
@pytest.mark.parametrize("recompute", [False, True])
def test_training_gives_the_attention_of_evaluation_with_its_gradient(options, recompute):
    model = build(**options, checkpoint_activations=recompute)
    expected = attention(model)
    assert expected.shape == (*PREVIOUS.shape, SOURCE.size(1))
    found = attention(model.train())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found.sum(dim=2) <= 1 + 1e-6).all()
    (found * torch.rand_like(found)).sum().backward()
    layer = model.decoder.layers[-1].encoder_attn
    for projection in (layer.q_proj, layer.k_proj):
        assert projection.weight.grad.abs().sum() > 0


@every_model
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("training", [False, True])
def test_the_layer_and_the_heads_that_are_asked_for(options, layer, training):
    model = build(**options).train(training)
    for prepared in (False, True):
        if prepared:  # as fairseq's commands do before inference
            model.make_generation_fast_(beamable_mm_beam_size=None, need_attn=False)
        asked = attention(model, alignment_layer=layer, alignment_heads=1)
        assert asked.shape == (*PREVIOUS.shape, SOURCE.size(1))
        both_heads = attention(model, alignment_layer=layer)
        assert not torch.allclose(asked, both_heads)
    whole = model.decoder(
        PREVIOUS, encoder_out=model.encoder(SOURCE), full_context_alignment=True,
        alignment_layer=layer,
    )  # fmt: skip
    assert whole[1]["attn"][0].shape == asked.shape


def test_looking_does_not_change_what_is_computed():
    looked, not_looked = build(**MODELS["both"]).train(), build(**MODELS["both"]).train()
    for model in (looked, not_looked):
        logits, extra = model(SOURCE, None, PREVIOUS)
        if model is looked:
            assert next(iter(extra["attn"])) is extra["attn"][0]
        logits.sum().backward()
    for one, other in zip(looked.parameters(), not_looked.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


@every_model
def test_step_by_step_attention_is_given_unless_generation_has_no_use_for_it(options):
    model = build(**options)
    expected = attention(model)
    encoder_out = model.encoder(SOURCE)
    for need_attn in (True, None):
        if need_attn is not None:
            model.make_generation_fast_(beamable_mm_beam_size=None, need_attn=need_attn)
        state: dict = {}
        for step in range(PREVIOUS.size(1)):
            part = PREVIOUS[:, : step + 1]
            extra = model.decoder(part, encoder_out=encoder_out, incremental_state=state)[1]
            words = part[:, -1] != 1  # at padding there is nothing to compare
            found = extra["attn"][0][:, -1]
            torch.testing.assert_close(found[words], expected[words, step], rtol=0, atol=1e-6)


def guided_loss(model):
    """fairseq's criterion: every target word is aligned to the source word of its number."""
    task = SimpleNamespace(target_dictionary=dictionary())
    criterion = LabelSmoothedCrossEntropyCriterionWithAlignment(task, False, 0.1, 0.5)
    rows, length = SOURCE.shape
    aligned = torch.tensor([
        [length - 2, row * TARGET.size(1)] for row in range(rows)
    ])  # fmt: skip
    sample = {
        "net_input": {"src_tokens": SOURCE, "src_lengths": None, "prev_output_tokens": PREVIOUS},
        "target": TARGET, "ntokens": 14, "alignments": aligned, "align_weights": torch.ones(rows),
    }  # fmt: skip
    loss, _, log = criterion(model, sample)
    return loss, log["alignment_loss"]


@every_model
def test_guided_alignment_learns(options):
    model = build(**options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = guided_loss(model)[1]
    for _ in range(60):
        optimizer.zero_grad()
        guided_loss(model)[0].backward()
        optimizer.step()
    assert guided_loss(model)[1] < first / 2


@pytest.fixture(scope="module")
def aligned_data(tmp_path_factory):
    """Three-word sentences whose target repeats the source, and their alignments."""
    folder = tmp_path_factory.mktemp("aligned")
    for split in ("train", "valid", "test"):
        lines = [f"w{i % 5} w{(i + 2) % 5} w{(i * 3) % 5}\n" for i in range(16)]
        for language in ("de", "en"):
            (folder / f"{split}.{language}").write_text("".join(lines))
        (folder / f"{split}.align").write_text("0-0 1-1 2-2\n" * 16)
    run(
        "fairseq-preprocess", "-s", "de", "-t", "en", "--trainpref", folder / "train",
        "--validpref", folder / "valid", "--testpref", folder / "test", "--align-suffix", "align",
        "--joined-dictionary", "--destdir", folder / "bin",
    )  # fmt: skip
    return folder / "bin"


@pytest.mark.cli
def test_from_the_command_line(aligned_data, tmp_path):
    fairseq(
        "train", aligned_data, "--arch", "mem_transformer", *TINY, *TRAIN, *EVERY_SENTENCE,
        "--memory-tokens", "3", "--memory-decoder-tokens", "2", "--share-all-embeddings",
        "--load-alignments", "--criterion", "label_smoothed_cross_entropy_with_alignment",
        "--label-smoothing", "0.1", "--max-epoch", "2", "--save-dir", tmp_path,
    )  # fmt: skip
    for kind in ("hard", "soft"):
        done = fairseq(
            "generate", aligned_data, "--path", tmp_path / "checkpoint_last.pt", "--cpu",
            "--beam", "2", "--print-alignment", kind, *EVERY_SENTENCE,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("A-")]
        assert len(lines) == 16
