"""Lesions hide memory in their scope alone, step by step too; nobody trains with one."""

import pytest
import torch
from helpers.random_models import (
    EXACT,
    build,
    logits,
    shifted,
)
from helpers.references.layers import read
from helpers.updates import (
    SOURCE,
    TARGET,
    M,
    controllers,
    encoder_input,
    every_update,
    make,
    states,
)

from fairseq_mem import UserError


def lesioned(whole, update, lesion, scope, **options):
    model = make(
        update,
        memory_lesion=lesion,
        memory_lesion_scope=scope,
        memory_decoder_tokens=2,
        seed=3,
        **options,
    )
    model.load_state_dict(states(whole))
    return model


@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
@pytest.mark.parametrize("pre_norm", [False, True])
@every_update
def test_lesion_of_the_encoder_equals_the_loops(update, lesion, pre_norm):
    """Text rows skip memory's columns before the softmax, or zero them after it."""
    whole = make(update, memory_decoder_tokens=2, encoder_normalize_before=pre_norm)
    model = lesioned(whole, update, lesion, "encoder", encoder_normalize_before=pre_norm)
    encoder = whole.encoder
    x, padding = encoder_input(encoder)
    first_text = M if update == "shared" else 0  # row of the first text query

    def visible(b, t, s):
        return not bool(padding[b, s])

    def meets(b, t, s):
        return t >= first_text and s < M

    rule = (
        (lambda b, t, s: visible(b, t, s) and not meets(b, t, s), None)
        if lesion == "no-read"
        else (visible, meets)
    )
    for layer, controller in zip(encoder.layers, controllers(encoder), strict=True):
        if update == "shared":
            x = read(layer, x, x, *rule)
            continue
        memory = read(controller, x[:M], x, visible)
        if update == "bottleneck":
            nothing = (lambda b, t, s: False, None)
            x = torch.cat([memory, read(layer, x[M:], memory, *nothing)])
        else:
            x = torch.cat([memory, read(layer, x[M:], x, *rule)])
    if pre_norm:
        x = encoder.layer_norm(x)
    out = model.encoder(SOURCE)["encoder_out"][0]
    real = ~padding.T
    torch.testing.assert_close(out[real], x[real], **EXACT)


@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
def test_a_lesioned_bottleneck_keeps_tokens_apart(lesion):
    model = lesioned(make("bottleneck", memory_decoder_tokens=2), "bottleneck", lesion, "encoder")
    changed = SOURCE.clone()
    changed[0, 2] = (changed[0, 2] + 3 - 4) % 20 + 4
    before, after = (model.encoder(s)["encoder_out"][0][M:, 0] for s in (SOURCE, changed))
    others = [0, 1, 3, 4, 5]
    assert torch.equal(before[others], after[others])
    assert not torch.allclose(before[2], after[2])


@pytest.mark.parametrize("scope", ["encoder", "cross", "decoder", "all"])
def test_a_lesion_acts_in_its_scope_alone(scope):
    """Gradients tell where text still reads memory."""
    model = lesioned(make("shared", memory_decoder_tokens=2), "shared", "no-read", scope)
    text = model.encoder(SOURCE)["encoder_out"][0][M:].sum()
    (grad,) = torch.autograd.grad(text, model.encoder.memory.weight)
    assert (grad.abs().sum() == 0) == (scope in ("encoder", "all"))

    encoder_out = model.encoder(SOURCE)
    source = encoder_out["encoder_out"][0].detach().requires_grad_()
    encoder_out["encoder_out"] = [source]
    out, extra = model.decoder(shifted(TARGET), encoder_out=encoder_out)
    from_encoder, from_decoder = torch.autograd.grad(
        out.pow(2).sum(), [source, model.decoder.memory.weight]
    )
    assert (from_decoder.abs().sum() == 0) == (scope in ("decoder", "all"))
    assert from_encoder[M:].abs().sum() > 0
    if scope == "all":  # with "cross" alone, decoder memory still hands on what it reads
        assert from_encoder[:M].abs().sum() == 0
    to_text = extra["attn"][0].sum(-1)
    everything = torch.ones(3, 7).double()
    assert torch.allclose(to_text, everything, atol=1e-6) == (scope in ("cross", "all"))


def test_zero_read_leaves_the_other_weights_as_they_were():
    one_layer = dict(decoder_layers=1, memory_decoder_tokens=2)
    whole = make("shared", **one_layer)
    model = make(
        "shared", memory_lesion="zero-read", memory_lesion_scope="cross", seed=3, **one_layer
    )
    model.load_state_dict(states(whole))
    encoder_out, previous = whole.encoder(SOURCE), shifted(TARGET)
    before, after = (
        m.decoder(previous, encoder_out=encoder_out)[1]["attn"][0] for m in (whole, model)
    )
    assert torch.equal(before, after)
    assert (after.sum(-1) < 0.999).all()


@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
@pytest.mark.parametrize("scope", ["cross", "decoder", "all"])
def test_lesions_of_the_decoder_step_by_step(lesion, scope):
    model = lesioned(make("shared", memory_decoder_tokens=2), "shared", lesion, scope)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 8, 9, 10], [2, 11, 12, 13]])
    whole = logits(model, SOURCE, tokens)
    encoder_out, state = model.encoder(SOURCE), {}
    for step in range(4):
        out = model.decoder(
            tokens[:, : step + 1], encoder_out=encoder_out, incremental_state=state
        )[0]
        torch.testing.assert_close(out[:, 0], whole[:, step], **EXACT)
    intact = make("shared", memory_decoder_tokens=2)
    assert not torch.allclose(whole, logits(intact, SOURCE, tokens))


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("mem_transformer", {}),
        ("mem_transformer", dict(memory_tokens=0, memory_decoder_tokens=2)),
        ("mem_transformer", dict(memory_tokens=0)),
        ("mem_transformer_lm", {}),
        ("mem_transformer_xl_small", dict(tokens_per_sample=4, cache_length=4)),
    ],
)
def test_training_with_a_lesion_is_refused(arch, options):
    model = build(arch, memory_lesion="no-read", **options)
    words = [SOURCE, None, SOURCE] if arch == "mem_transformer" else [SOURCE]
    model(*words)
    with pytest.raises(UserError, match="memory_lesion is 'no-read', which is for inference"):
        model.train()(*words)


@pytest.mark.parametrize(
    "options", [dict(memory_lesion="cut"), dict(memory_lesion_scope="everywhere")]
)
def test_unknown_lesions_are_refused(options):
    with pytest.raises(UserError, match="choose one of"):
        build(**options)
