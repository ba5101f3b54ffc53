"""`mem_transformer_xl`: the loops, who sees what, gradients, precision, in float64."""

from types import SimpleNamespace

import pytest
import torch
from helpers.random_models import EXACT, dictionary
from helpers.recurrent_models import build, features, words
from helpers.references.relative_attention import stream

from fairseq_mem import LabelSmoothedCrossEntropyCriterion
from fairseq_mem.attention.relative import RelativeAttention, distance_codes
from fairseq_mem.streaming.state import StreamState

# ------------------------------------------------------------ against loops


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(cache_length=0),
        dict(decoder_normalize_before=True),
        dict(memory_tokens=3),
        dict(memory_tokens=3, memory_recurrence=2),
        dict(memory_tokens=3, memory_recurrence=2, memory_carry="gate"),
        dict(memory_tokens=3, memory_recurrence=2, cache_length=0, decoder_normalize_before=True),
    ],
    ids=str,
)
def test_segments_equal_the_reference(options, training):
    model = build(**options).train(training)
    tokens = words(2, 11)
    with torch.no_grad():
        whole = features(model, tokens, segment=4)
        expected = torch.stack([stream(model.decoder, row.split(4)) for row in tokens])
    torch.testing.assert_close(whole, expected, **EXACT)


def test_zero_read_equals_the_reference():
    model = build(memory_tokens=3, memory_recurrence=1, memory_lesion="zero-read")
    tokens = words(1, 8)
    with torch.no_grad():
        expected = stream(model.decoder, tokens[0].split(4), drop_memory=True)
        torch.testing.assert_close(features(model, tokens, segment=4)[0], expected, **EXACT)


def test_no_read_is_a_model_without_memory():
    """Text does not see memory, and memory moves no distances."""
    lesioned = build(memory_tokens=3, memory_lesion="no-read")
    without = build()
    without.load_state_dict(lesioned.state_dict())
    tokens = words(2, 9)
    torch.testing.assert_close(
        features(lesioned, tokens, segment=4), features(without, tokens, segment=4), **EXACT
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("segment", [1, 3, 8])
def test_cached_evaluation_equals_one_long_pass_without_a_cache(segment, training):
    model = build(cache_length=100).train(training)
    alone = build(cache_length=0).train(training)
    alone.load_state_dict(model.state_dict())
    tokens = words(2, 23)
    cached = torch.cat(
        [
            model(part, position=number * segment)[0]
            for number, part in enumerate(tokens.split(segment, dim=1))
        ],
        dim=1,
    )
    torch.testing.assert_close(cached, alone(tokens)[0], **EXACT)


def test_what_differs_from_the_original_as_the_readme_says():
    model = build(
        memory_tokens=3, memory_recurrence=2, dropout=0.9, decoder_normalize_before=True,
        adaptive_softmax_cutoff="6,12,18",
    )  # fmt: skip
    decoder = model.decoder
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert all(shapes[f"decoder.layers.{n}.self_attn.{b}"] == (2, 8) for n in (0, 1) for b in "uv")
    assert not [name for name in shapes if "softmax" in name and "bias" in name]
    assert [tuple(band[1].weight.shape) for band in decoder.embed_tokens.embeddings] == [
        (16, 16)
    ] * 4
    assert isinstance(decoder.layer_norm, torch.nn.LayerNorm)
    memory = decoder.memory.weight
    assert all(not torch.equal(memory[a], memory[b]) for a in range(3) for b in range(a))
    # no dropout on memory, neither where it is read nor where it is written; the text has it
    given = []
    decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    model.train()
    features(model, words(2, 5))
    for part in (given[0][:, :3], given[0][:, -3:]):
        assert torch.equal(part, memory.expand(2, -1, -1))
    assert (given[0][:, 3:-3] == 0).any()


@pytest.mark.parametrize("where", ["XLDecoder", "XLLayer", "RelativeAttention"])
@pytest.mark.parametrize("recurrence", [0, 2])
def test_dropout_that_is_retained_at_inference(where, recurrence):
    """fairseq's `--retain-dropout`: memory's attention and the cached position codes had none."""
    model = build(
        memory_tokens=3, memory_recurrence=recurrence, dropout=0.3, attention_dropout=0.5,
        activation_dropout=0.3,
    )  # fmt: skip
    model.make_generation_fast_(retain_dropout=True, retain_dropout_modules=[where])
    tokens = words(2, 4)
    torch.manual_seed(1)
    one, other = (features(model, tokens) for _ in range(2))
    assert not torch.equal(one, other)
    attention = model.decoder.layers[0].self_attn
    q = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    one, other = (attention._attend_content(q, q, q, None)[0] for _ in range(2))
    assert torch.equal(one, other) == (where != "RelativeAttention")
    known = model.decoder.read_segment(tokens, StreamState())[1].positions
    assert bool(known) == (where != "XLDecoder")


def test_attention_gradients():
    attention = RelativeAttention(4, 2, 0.0).double()
    codes = distance_codes(torch.arange(5, -1, -1), 4)

    def attend(x, past, *_):
        kv = attention.keys_values(torch.cat([x[:, :2], past, x[:, 2:]], dim=1))
        return attention(x, kv, attention.positions(codes), 2, 2, 2, free=True)

    x = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    past = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attend, (x, past, *attention.parameters()))


def test_distances_beyond_the_limit_are_the_limit():
    near, far = build(clamp_distance=3), build()
    tokens = words(1, 9)
    assert not torch.allclose(features(near, tokens), features(far, tokens))
    torch.testing.assert_close(features(near, tokens[:, :4]), features(far, tokens[:, :4]), **EXACT)
    model, x = near.decoder, torch.zeros(1, dtype=torch.float64)
    positions = model._positions(8, x, StreamState())[0]
    three = model.layers[0].self_attn.positions(distance_codes(torch.tensor([3]), 16))
    torch.testing.assert_close(positions[:, :, :6], three.expand(-1, -1, 6), **EXACT)


# ------------------------------------------------------------ what memory can do


def changed(model, where: int, tokens, **options) -> torch.Tensor:
    """Which positions' features change (T booleans) with the word at ``where``."""
    other = tokens.clone()
    other[:, where] = (other[:, where] - 4 + 1) % 20 + 4
    before, after = features(model, tokens, **options), features(model, other, **options)
    return (before - after).abs().amax(dim=(0, 2)) > 1e-9


MEMORIES = [dict(), dict(memory_tokens=3), dict(memory_tokens=3, memory_recurrence=2)]


@pytest.mark.parametrize("memory", MEMORIES, ids=str)
def test_no_word_sees_the_future(memory):
    model = build(**memory)
    tokens = words(1, 12)
    for where in range(12):
        assert not changed(model, where, tokens, segment=4)[:where].any()


def test_memory_alone_carries_over_three_segments_without_a_cache():
    tokens = words(1, 16)
    carried = changed(
        build(memory_tokens=2, memory_recurrence=1, cache_length=0), 1, tokens, segment=4
    )
    assert carried[1:].all()
    for options in (dict(memory_tokens=2), dict()):
        lost = changed(build(cache_length=0, **options), 1, tokens, segment=4)
        assert lost[1:4].all() and not lost[4:].any()


def test_the_cache_reaches_its_length_a_layer():
    """Two layers, segments of 4, a cache of 2."""
    reached = changed(build(cache_length=2), 1, words(1, 16), segment=4)
    assert reached[1:8].all() and not reached[8:].any()  # through the states of words 2 and 3
    reached = changed(build(cache_length=2), 3, words(1, 16), segment=4)
    assert reached[3:12].all() and not reached[12:].any()


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_gradients_reach_back_exactly_k_segments(segments):
    """The loss in a batch's last segment reaches the first word of the batch, and no further."""
    model = build(memory_tokens=2, memory_recurrence=segments, cache_length=3).train()
    embedded = []
    model.decoder.embed_tokens.register_forward_hook(
        lambda module, inputs, output: embedded.append(output) or output.retain_grad()
    )
    piece = 4 * segments
    tokens = words(1, 3 * piece)
    for number, part in enumerate(tokens.split(piece, dim=1)):
        out = features(model, part, segment=4, position=number * piece)
    out[:, -1].pow(2).sum().backward()
    reached = [x.grad is not None and bool(x.grad.any()) for x in embedded]
    assert reached == [False] * (2 * segments) + [True] * segments


@pytest.mark.parametrize("options", [
    dict(), dict(memory_tokens=3), dict(memory_tokens=3, memory_recurrence=2),
    dict(memory_tokens=3, memory_recurrence=1, decoder_normalize_before=True),
    dict(memory_tokens=3, memory_recurrence=2, memory_carry="gate"),
    dict(memory_tokens=3, adaptive_softmax_cutoff="6,12"),
    dict(memory_tokens=3, adaptive_softmax_cutoff="6,12", adaptive_softmax_factor=2.0),
], ids=str)  # fmt: skip
def test_every_parameter_gets_a_gradient(options):
    model = build(**options).train()
    tokens = words(2, 13)
    out, target = model(tokens[:, :-1], segment=4, position=0)[0], tokens[:, 1:].flatten()
    if model.decoder.adaptive_softmax is None:
        torch.nn.functional.cross_entropy(out.flatten(0, 1), target).backward()
    else:
        parts = zip(*model.decoder.adaptive_softmax(out, target), strict=True)
        sum(torch.nn.functional.cross_entropy(*part) for part in parts).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_every_parameter_gets_a_gradient_where_memory_is_carried_over():
    """A gradient of zero: torch's distributed training stops where there is none."""
    model = build(memory_tokens=3, memory_recurrence=2).train()
    tokens = words(2, 16)
    for part in (0, 8):
        model.zero_grad()
        model(tokens[:, part : part + 8], segment=4, position=part)[0].sum().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert not model.decoder.memory.weight.grad.any()


PARTS = ("weight", "bias")


def test_memory_adds_its_vectors_and_nothing_else():
    plain = dict(build().named_parameters())
    handed_on = build(memory_tokens=3, memory_recurrence=2)
    memory = dict(handed_on.named_parameters())
    assert memory.keys() - plain.keys() == {"decoder.memory.weight"}
    assert memory["decoder.memory.weight"].shape == (3, 16)
    gated = build(memory_tokens=3, memory_recurrence=2, memory_carry="gate")
    gated = dict(gated.named_parameters())
    gate = {f"decoder.carry.gate.{name}": gated[f"decoder.carry.gate.{name}"] for name in PARTS}
    assert gated.keys() - memory.keys() == gate.keys()
    assert sum(parameter.numel() for parameter in gate.values()) == 2 * 16**2 + 16
    only = build(memory_tokens=3, memory_only=True)
    trained = {name for name, p in only.named_parameters() if p.requires_grad}
    assert trained == {"decoder.memory.weight"}


def test_the_presets():
    args = SimpleNamespace()
    from fairseq.models import ARCH_CONFIG_REGISTRY

    ARCH_CONFIG_REGISTRY["mem_transformer_xl"](args)
    assert (args.decoder_layers, args.decoder_embed_dim, args.decoder_ffn_embed_dim) == (
        16,
        410,
        2100,
    )
    assert (args.decoder_attention_heads, args.dropout, args.attention_dropout) == (10, 0.1, 0.0)
    assert (args.tokens_per_sample, args.cache_length, args.memory_tokens) == (150, 150, 20)
    assert (args.memory_carry, args.memory_recurrence) == ("plain", 0)
    small = SimpleNamespace(dropout=0.3)
    ARCH_CONFIG_REGISTRY["mem_transformer_xl_small"](small)
    assert (small.decoder_layers, small.decoder_embed_dim, small.activation_dropout) == (
        4,
        128,
        0.3,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    model = build(memory_tokens=3, memory_recurrence=2, double=False).to(dtype).train()
    for position in (0, 8):
        logits = model(words(2, 8), segment=4, position=position)[0]
        logits.float().pow(2).mean().backward()
        assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# ------------------------------------------------------------ the state of the rows


def test_bfloat16_in_evaluation(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    options = dict(memory_tokens=3, memory_recurrence=2, double=False)
    exact, rough = build(**options), build(**options, memory_bf16=True)
    rough.prepare_for_inference_(SimpleNamespace(generation=SimpleNamespace()))
    tokens = words(2, 16)
    for position in (0, 8):
        one, other = (
            model(tokens[:, position : position + 8], segment=4, position=position)[0]
            for model in (exact, rough)
        )
        assert other.dtype == torch.bfloat16
        torch.testing.assert_close(other.float(), one, rtol=0, atol=0.1)


def test_mixed_precision_with_adaptive_input_and_softmax():
    """--amp, in which fairseq's adaptive input would mix two types."""
    model = build(
        memory_tokens=2, memory_recurrence=2, adaptive_softmax_cutoff="5,9", double=False
    ).train()  # fmt: skip
    tokens = words(2, 16)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            read = model(tokens, segment=4)[0]
            logits, _ = model.decoder.adaptive_softmax(read.flatten(0, 1), tokens.flatten())
        losses.append(logits[0].float().logsumexp(1).mean())
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_fused_criterion_gives_the_plain_loss():
    model = build(memory_tokens=2)
    tokens = words(2, 9)
    sample = {"net_input": {"src_tokens": tokens[:, :-1], "segment": 4},
              "target": tokens[:, 1:].contiguous(), "ntokens": 16}  # fmt: skip
    task = SimpleNamespace(target_dictionary=dictionary())
    loss, size, _ = LabelSmoothedCrossEntropyCriterion(task, False, 0.0)(model, sample)
    logits = model(**sample["net_input"])[0]
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), sample["target"].flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, plain, **EXACT)
    assert size == 16
