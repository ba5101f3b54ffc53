"""The decoder's attention to the source, by every door through which fairseq asks for it."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy_with_alignment import (
    LabelSmoothedCrossEntropyCriterionWithAlignment,
)
from fairseq.data import LanguagePairDataset
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.transformer_align import TransformerAlignModel
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.sequence_scorer import SequenceScorer
from helpers.random_models import build, dictionary, sentences, shifted

from fairseq_mem.attention.fused import FusedAttention

LENGTHS = [6, 3, 5]
SOURCE = sentences(LENGTHS, left_pad=True, seed=1)
TARGET = sentences([4, 6, 2], seed=2)
LAYERS = 3
VARIANTS = {
    "fairseq's own": dict(memory_tokens=0),
    "no memory, our decoder": dict(memory_tokens=0, memory_positions=True),
    "encoder": dict(memory_tokens=3),
    "decoder": dict(memory_tokens=0, memory_decoder_tokens=2),
    "both, positions": dict(memory_tokens=3, memory_decoder_tokens=2, memory_positions=True),
    "ctrl": dict(memory_tokens=3, memory_update="ctrl"),
    "ctrl-shared": dict(memory_tokens=3, memory_update="ctrl-shared", memory_decoder_tokens=2),
    "bottleneck": dict(memory_tokens=3, memory_update="bottleneck"),
    "checkpointed": dict(memory_tokens=3, memory_decoder_tokens=2, checkpoint_activations=True),
    "lesion": dict(memory_tokens=3, memory_lesion="no-read", memory_lesion_scope="cross"),
    "zero-read": dict(memory_tokens=3, memory_lesion="zero-read", memory_lesion_scope="cross"),
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
trainable = pytest.mark.parametrize(
    "options",
    [options for options in VARIANTS.values() if "memory_lesion" not in options],
    ids=[name for name, options in VARIANTS.items() if "memory_lesion" not in options],
)


def make(options, **more):
    return build(decoder_layers=LAYERS, **options, **more)


def expected_attention(model, layer, previous, heads=None, source=SOURCE, **call):
    """B x T x S, computed by fairseq's own attention from what ours was given."""
    ours = model.decoder.layers[layer].encoder_attn
    seen = {}
    hook = ours.register_forward_pre_hook(lambda _, args, kw: seen.update(kw), with_kwargs=True)
    model.decoder(previous, encoder_out=model.encoder(source), **call)
    hook.remove()
    size = ours.embed_dim
    theirs = MultiheadAttention(
        size, ours.num_heads, kdim=size, vdim=size, encoder_decoder_attention=True
    )
    theirs.q_proj, theirs.k_proj = ours.q_proj, ours.k_proj  # the same parameters, for gradients
    theirs.v_proj, theirs.out_proj = ours.v_proj, ours.out_proj
    padding = seen["key_padding_mask"]
    slots = seen["key"].size(0) - source.size(1)
    if getattr(ours, "lesion", "none") == "no-read":
        padding = padding.clone()
        padding[:, :slots] = True
    weights = theirs(
        seen["query"], seen["key"], seen["value"], padding, static_kv=True, need_head_weights=True
    )[1]
    return weights.to(seen["query"])[:heads].mean(0)[:, -previous.size(1) :, slots:]


def with_alignments(pad):
    """A batch as fairseq's loader makes it with ``--load-alignments``."""
    words = dictionary()
    sources, targets = ([row[row.ne(pad)] for row in side] for side in (SOURCE, TARGET))
    links = [torch.tensor([0, 1, 2, 0, 2, 1]), torch.tensor([1, 0, 1, 2, 0, 3]), torch.tensor([])]
    data = LanguagePairDataset(
        sources, list(map(len, sources)), words, targets, list(map(len, targets)), words,
        align_dataset=[link.long() for link in links],
    )  # fmt: skip
    return data.collater([data[index] for index in range(len(data))])


@variants
@pytest.mark.parametrize("layer, heads, full_context", [(None, None, False), (0, 1, True)])
def test_it_is_what_fairseqs_attention_gives(options, layer, heads, full_context):
    model = make(options)
    previous = shifted(TARGET)
    call = {} if layer is None else dict(alignment_layer=layer, alignment_heads=heads)
    extra = model.decoder.extract_features(
        previous, model.encoder(SOURCE), full_context_alignment=full_context, **call
    )[1]
    assert len(extra["attn"]) == 1
    expected = expected_attention(
        model, LAYERS - 1 if layer is None else layer, previous, heads,
        full_context_alignment=full_context,
    )  # fmt: skip
    assert expected.shape == (*previous.shape, SOURCE.size(1))
    torch.testing.assert_close(extra["attn"][0], expected, rtol=0, atol=1e-6)
    assert extra["attn"][0] is extra["attn"][0]


@pytest.mark.parametrize("name", ["fairseq's own", "encoder"])
def test_a_layer_that_is_not_there_has_none(name):
    model = make(VARIANTS[name])
    extra = model(SOURCE, None, shifted(TARGET), alignment_layer=LAYERS)[1]
    assert extra["attn"][0] is None


def test_without_memory_our_decoder_gives_what_fairseqs_gives():
    ours, theirs = make(VARIANTS["no memory, our decoder"]), make({}, arch="transformer")
    theirs.load_state_dict(ours.state_dict(), strict=False)
    previous = shifted(TARGET)
    for training in (True, False):
        mine, other = (
            m.train(training)(SOURCE, None, previous, return_all_hiddens=True)[1]
            for m in (ours, theirs)
        )
        assert set(mine) == set(other) and len(mine["attn"]) == len(other["attn"]) == 1
        torch.testing.assert_close(mine["attn"][0], other["attn"][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(mine["inner_states"], other["inner_states"], rtol=0, atol=1e-6)


@trainable
def test_the_criterion_with_alignments_trains(options):
    """``--load-alignments --criterion label_smoothed_cross_entropy_with_alignment``."""
    model = make(options).train()
    sample = with_alignments(model.encoder.padding_idx)
    words = SimpleNamespace(target_dictionary=dictionary())
    guided = LabelSmoothedCrossEntropyCriterionWithAlignment(words, False, 0.1, 0.5)
    loss, _, log = guided(model, sample)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    reference = make({**options, "checkpoint_activations": False}).train()
    source, previous = (sample["net_input"][n] for n in ("src_tokens", "prev_output_tokens"))
    attention = expected_attention(reference, LAYERS - 1, previous, source=source).flatten(0, 1)
    links, weights = sample["alignments"], sample["align_weights"]
    expected = -(attention[links[:, 1], links[:, 0]].log() * weights).sum()
    assert log["alignment_loss"] == pytest.approx(expected.item(), abs=1e-4)

    plain = LabelSmoothedCrossEntropyCriterion(words, False, 0.1)(reference, sample)[0]
    assert loss.item() == pytest.approx(plain.item() + 0.5 * expected.item(), abs=1e-3)
    (plain + 0.5 * expected).backward()
    for name, parameter in reference.named_parameters():
        if name in gradients or parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "training"),
    [("encoder", True), ("decoder", True), ("ctrl", True), ("encoder", False), ("decoder", False)],
)
def test_nobody_asks_and_nothing_is_computed(name, training, monkeypatch):
    monkeypatch.setattr(FusedAttention, "_weights", lambda *_: pytest.fail("computed"))
    model = make(VARIANTS[name]).train(training)
    sample = with_alignments(model.encoder.padding_idx)
    criterion = LabelSmoothedCrossEntropyCriterion(
        SimpleNamespace(target_dictionary=dictionary()), False, 0.1
    )
    loss = criterion(model, sample)[0]
    loss.backward()


def test_looking_later_changes_nothing():
    """Not even where gradients are off, and then on again, and for a copy."""
    model = make(VARIANTS["encoder"]).train()
    extra = model(SOURCE, None, shifted(TARGET))[1]
    with torch.no_grad():
        assert extra["attn"][0].requires_grad
    with torch.no_grad():
        extra = model(SOURCE, None, shifted(TARGET))[1]
    copied, again = copy.deepcopy(extra), pickle.loads(pickle.dumps(extra))
    assert not extra["attn"][0].requires_grad
    for other in (copied, again):
        assert isinstance(other["attn"], list)
        assert torch.equal(other["attn"][0], extra["attn"][0])


def prepared(model, how):
    """As fairseq's programs and its hub prepare a model before it generates."""
    if how != "not":
        asks = "hard" if how == "asking" else None
        generation = SimpleNamespace(print_alignment=asks, beam=3)
        model.prepare_for_inference_(SimpleNamespace(generation=generation))
    return model


SAMPLE = {
    "net_input": {"src_tokens": SOURCE, "src_lengths": torch.tensor(LENGTHS)},
}


@variants
@pytest.mark.parametrize("how, beam", [("not", 1), ("prepared", 3)])
def test_generators_record_it(options, how, beam):
    """Each hypothesis's attention, S x T, is that of teacher forcing."""
    model = prepared(make(options), how)
    generator = SequenceGenerator([model], dictionary(), beam_size=beam, max_len_b=9)
    with torch.no_grad():
        for row, hypotheses in enumerate(generator.generate([model], SAMPLE)):
            for hypothesis in hypotheses:
                tokens = hypothesis["tokens"]
                assert hypothesis["attention"].shape == (SOURCE.size(1), len(tokens))
                previous = torch.cat([tokens[-1:], tokens[:-1]])[None]
                expected = model(SOURCE[row : row + 1], None, previous)[1]["attn"][0][0].T
                # the generator keeps it in float32
                torch.testing.assert_close(
                    hypothesis["attention"], expected.float(), rtol=0, atol=1e-5
                )


@variants
@pytest.mark.parametrize("kind, how", [("hard", "prepared"), ("soft", "asking")])
def test_print_alignment(options, kind, how):
    model = prepared(make(options), how)
    generator = SequenceGeneratorWithAlignment(
        [model], dictionary(), print_alignment=kind, beam_size=3, max_len_b=9
    )
    for length, hypotheses in zip(LENGTHS, generator.generate([model], SAMPLE)):
        for hypothesis in hypotheses:
            words = len(hypothesis["tokens"]) - 1
            alignment = hypothesis["alignment"]
            if kind == "hard":
                assert [target for _, target in alignment] == list(range(words))
                assert all(0 <= source < length for source, _ in alignment)
            else:
                assert [len(row) for row in alignment] == [length] * (words + 1)  # with </s>


@variants
def test_the_scorer_aligns(options):
    model = prepared(make(options), "prepared")
    sample = {**SAMPLE, "target": TARGET}
    sample["net_input"] = {**SAMPLE["net_input"], "prev_output_tokens": shifted(TARGET)}
    scored = SequenceScorer(dictionary(), compute_alignment=True).generate([model], sample)
    expected = expected_attention(model, LAYERS - 1, shifted(TARGET))
    for row, (hypothesis,) in enumerate(scored):
        torch.testing.assert_close(hypothesis["attention"], expected[row], rtol=0, atol=1e-6)
        assert len(hypothesis["alignment"]) == len(hypothesis["tokens"]) - 1


@variants
@pytest.mark.parametrize("full_context", [False, True])
def test_fairseqs_model_for_alignments(options, full_context):
    """``transformer_align`` around our encoder and decoder, in training and in generation."""
    inner = make(options)
    model = TransformerAlignModel.__new__(TransformerAlignModel)
    FairseqEncoderDecoderModel.__init__(model, inner.encoder, inner.decoder)
    model.alignment_heads = model.alignment_layer = 1
    model.full_context_alignment = full_context
    expected = expected_attention(
        inner, 1, shifted(TARGET), heads=1, full_context_alignment=full_context
    )
    got = model(SOURCE, None, shifted(TARGET))[1]["attn"][0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    generator = SequenceGeneratorWithAlignment([model], dictionary(), beam_size=2, max_len_b=9)
    for hypotheses in generator.generate([model], SAMPLE):
        for hypothesis in hypotheses:
            assert len(hypothesis["alignment"]) == len(hypothesis["tokens"]) - 1


def test_ensembles_average_it():
    models = [make(VARIANTS[name], seed=seed) for seed, name in enumerate(("encoder", "decoder"))]
    models.append(make({}, arch="transformer"))
    generator = SequenceGenerator(models, dictionary(), beam_size=3, max_len_b=9)
    for row, hypotheses in enumerate(generator.generate(models, SAMPLE)):
        tokens = hypotheses[0]["tokens"]
        previous = torch.cat([tokens[-1:], tokens[:-1]])[None]
        with torch.no_grad():
            each = [m(SOURCE[row : row + 1], None, previous)[1]["attn"][0] for m in models]
        torch.testing.assert_close(
            hypotheses[0]["attention"], (sum(each) / 3)[0].T.float(), rtol=0, atol=1e-5
        )


def test_language_models_have_none():
    """As fairseq's."""
    model = build("mem_transformer_lm", memory_tokens=2, tokens_per_sample=20)
    assert model(shifted(TARGET))[1]["attn"][0] is None
