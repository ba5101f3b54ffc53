"""The controls, a sink and static keys: the invariants of the design, by number, in float64."""

import pytest
import torch
from helpers.random_models import (
    EXACT,
    assert_padding_changes_nothing,
    build,
    logits,
    sentences,
    shifted,
)
from helpers.references.controls import attend
from helpers.references.relative_attention import stream

from fairseq_mem import UserError
from fairseq_mem.attention.controls import NAME, AttentionControls
from fairseq_mem.attention.fused import FusedAttention
from fairseq_mem.attention.recording import recording
from fairseq_mem.streaming.state import StreamState

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
SINK, STATIC = dict(attention_sink=True), dict(memory_static=3)
CONTROLS = {"sink": SINK, "static": STATIC, "both": {**SINK, **STATIC}}
MODELS = {
    "alone": dict(memory_tokens=0),
    "memory": dict(memory_tokens=2, memory_decoder_tokens=1),
    "ctrl": dict(memory_tokens=2, memory_update="ctrl"),
    "bottleneck": dict(memory_tokens=2, memory_update="bottleneck"),
}
every_control = pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)
every_model = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)


def build_controlled(arch="mem_transformer", **options):
    """With sinks that are not at their beginning, where mistakes hide."""
    model = build(arch, **options)
    for name, parameter in model.named_parameters():
        if name.endswith(".sink"):
            torch.nn.init.normal_(parameter)
    return model


def attention(sink=True, static=2, **kind):
    made = FusedAttention(12, 3, **(kind or {"self_attention": True})).double().eval()
    made.controls = AttentionControls(3, 4, sink, static).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


# ------------------------------------------------------------ 1: keys and parameters


def test_without_controls_there_is_nothing_of_them():
    model = build(memory_tokens=0)
    assert not [name for name in model.state_dict() if NAME in name]
    assert type(model.encoder).__module__.startswith("fairseq.")


@every_control
def test_new_keys_are_exactly_as_computed(controls):
    plain, model = build(memory_tokens=0), build(memory_tokens=0, **controls)
    new = set(model.state_dict()) - set(plain.state_dict())
    names = [
        name for name, wanted in
        (("sink", SINK), ("static_keys", STATIC), ("static_values", STATIC))
        if wanted.items() <= controls.items()
    ]  # fmt: skip
    places = [f"encoder.layers.{n}.self_attn" for n in range(2)]
    places += [f"decoder.layers.{n}.{kind}_attn" for n in range(2) for kind in ("self", "encoder")]
    assert new == {f"{place}.controls.{name}" for place in places for name in names}
    count = sum(model.state_dict()[name].numel() for name in new)
    assert count == 6 * (2 * ("sink" in names) + 2 * 3 * 16 * ("static_keys" in names))


# ------------------------------------------------------------ 2 to 4


@every_control
@every_model
def test_padding_changes_nothing(options, controls):
    model = build_controlled(**options, **controls)
    assert_padding_changes_nothing(model, SOURCE, TARGET, **EXACT)


@every_control
@every_model
@torch.no_grad()
def test_steps_equal_the_whole_also_after_reordering(options, controls):
    """Beams of 2 a sentence, which share what they have of the source and are reordered."""
    model = build_controlled(**options, **controls)
    model.set_beam_size(2)
    rows = torch.arange(3).repeat_interleave(2)
    target = shifted(sentences([6] * 6, seed=3))
    target[:, 0], target[1::2, :3] = 2, target[::2, :3]
    order = torch.tensor([1, 0, 2, 2, 5, 4])
    encoder_out = model.encoder.reorder_encoder_out(model.encoder(SOURCE), rows)
    expected = logits(model, SOURCE[rows], target)
    state = {}
    for step in range(1, 7):
        if step == 4:  # so far the hypotheses of a sentence are the same
            model.decoder.reorder_incremental_state_scripting(state, order)
        found = model.decoder(target[:, :step], encoder_out, incremental_state=state)[0]
        torch.testing.assert_close(found[:, -1], expected[:, step - 1], **EXACT)


@every_control
def test_no_word_sees_the_future(controls):
    model = build_controlled(memory_tokens=2, memory_decoder_tokens=1, **controls)
    changed = TARGET.clone()
    changed[1, 4] = 9 if TARGET[1, 4] != 9 else 10
    one, two = (logits(model, SOURCE, shifted(words)) for words in (TARGET, changed))
    torch.testing.assert_close(one[1, :5], two[1, :5], **EXACT)
    assert (one[1, 5:] - two[1, 5:]).abs().max() > 1e-6


# ------------------------------------------------------------ 6: the loops


@pytest.mark.parametrize("static", [0, 2])
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_equals_the_loops(sink, static, need_weights):
    made = attention(sink, static)
    x = torch.randn(5, 3, 12, dtype=torch.double)
    padding = torch.arange(5)[None, :] >= torch.tensor([5, 2, 4])[:, None]
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    out, weights = made(
        x, x, x, padding, attn_mask=causal, need_weights=need_weights,
        need_head_weights=need_weights,
    )  # fmt: skip
    expected, expected_weights = attend(made, x, x, lambda b, t, s: s <= t and not padding[b, s])
    torch.testing.assert_close(out, expected, **EXACT)
    if need_weights:
        torch.testing.assert_close(weights, expected_weights, **EXACT)


def test_gradcheck():
    made = attention()
    x = torch.randn(4, 2, 12, dtype=torch.double, requires_grad=True)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    inputs = (x, *made.controls.parameters())
    for need_weights in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, *_, w=need_weights: made(x, x, x, padding, need_weights=w)[0], inputs
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("need_weights", [False, True])
def test_half_precision_stays_finite(dtype, need_weights):
    made = attention().to(dtype)
    x = (50 * torch.randn(6, 2, 12)).to(dtype).requires_grad_()
    padding = torch.tensor([[False] * 6, [True] * 6])  # all padding: only the controls are left
    out, _ = made(x, x, x, padding, need_weights=need_weights)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


@every_control
@every_model
def test_every_parameter_gets_a_gradient(options, controls):
    model = build_controlled(**options, **controls).train()
    logits(model, SOURCE, shifted(TARGET)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("recurrence", [0, 2])
@every_control
def test_transformer_xl_equals_the_loops_and_is_recorded(recurrence, controls):
    model = build_controlled(
        "mem_transformer_xl_small", memory_tokens=2, memory_recurrence=recurrence,
        tokens_per_sample=4, cache_length=4, decoder_layers=2, **controls,
    )  # fmt: skip
    first, second = TARGET[:, :4].clamp(min=4), TARGET[:, :4].flip(0).clamp(min=4)

    def read():
        state = model.decoder.read_segment(first, StreamState())[1]
        return model.decoder.read_segment(second, state)[0]

    expected = read()
    with recording(model) as maps:
        torch.testing.assert_close(read(), expected, **EXACT)
    static, written = controls.get("memory_static", 0), 2 if recurrence else 0
    two = maps["decoder.layers.0.self_attn"][1]
    assert two.size(3) == 2 + 8 + written + static
    sums = two.sum(dim=3)
    if "attention_sink" in controls:
        assert (sums < 1).all()
    else:
        torch.testing.assert_close(sums, torch.ones_like(sums), **EXACT)
    assert (two[..., 2 + 8 + written :] > 0).all()
    torch.testing.assert_close(
        expected[0], stream(model.decoder, [first[0], second[0]])[4:], **EXACT
    )


def test_a_language_model_has_them_too():
    model = build_controlled("mem_transformer_lm", memory_tokens=0, **CONTROLS["both"])
    words = shifted(sentences([6, 6], seed=2))
    whole, state = model(words)[0], {}
    for step in range(1, 7):
        found = model.decoder(words[:, :step], incremental_state=state)[0]
        torch.testing.assert_close(found[:, -1], whole[:, step - 1], **EXACT)


# ------------------------------------------------------------ 8: checkpoints


@every_control
def test_a_stock_checkpoint_warms_it_up(controls, caplog):
    stock, model = build("transformer"), build(memory_tokens=0, **controls)
    fresh = {name: value.clone() for name, value in model.state_dict().items() if NAME in name}
    model.load_state_dict(stock.state_dict(), strict=True, model_cfg=None)
    for name, value in model.state_dict().items():
        expected = fresh[name] if NAME in name else stock.state_dict()[name]
        assert torch.equal(value, expected), name
    assert len([line for line in caplog.messages if "freshly initialised" in line]) == 1


def test_a_controller_begins_with_its_layers_controls():
    shared = build_controlled(memory_tokens=2, **CONTROLS["both"])
    ctrl = build(memory_tokens=2, memory_update="ctrl", seed=9, **CONTROLS["both"])
    ctrl.load_state_dict(shared.state_dict(), strict=True)
    torch.testing.assert_close(
        logits(ctrl, SOURCE, shifted(TARGET)), logits(shared, SOURCE, shifted(TARGET)), **EXACT
    )


def test_fewer_static_keys_are_taken_and_more_refused():
    three = build_controlled(memory_tokens=0, **CONTROLS["both"])
    two = build(memory_tokens=0, seed=9, memory_static=2, attention_sink=True)
    two.load_state_dict(three.state_dict(), strict=True)
    kept = three.encoder.layers[0].self_attn.controls.static_keys[:, :2]
    assert torch.equal(two.encoder.layers[0].self_attn.controls.static_keys, kept)
    none = build(memory_tokens=0)
    none.load_state_dict(three.state_dict(), strict=True)
    with pytest.raises(UserError, match=r"has 2 static keys .* 3 were asked for; ask for 2"):
        three.load_state_dict(two.state_dict(), strict=True)
    grown = build(memory_tokens=0, seed=9, memory_grow=True, **CONTROLS["both"])
    grown.load_state_dict(two.state_dict(), strict=True)


def test_memory_only_trains_them():
    model = build(memory_tokens=0, memory_only=True, **CONTROLS["both"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if NAME in name
    }


def test_pruned_heads_keep_their_controls():
    made = attention()
    before = made.controls.sink.detach().clone(), made.controls.static_keys.detach().clone()
    made._adaptive_prune_heads([(8, 12), (0, 4)])
    assert torch.equal(made.controls.sink, before[0][[2, 0]])
    assert torch.equal(made.controls.static_keys, before[1][[2, 0]])
