"""The paper's four ways of updating memory: equations, who can influence whom, warm starts."""

import pytest
import torch
from helpers.random_models import (
    EXACT,
    assert_padding_changes_nothing,
    build,
    dictionary,
    logits,
    sentences,
    shifted,
)
from helpers.references.layers import bottleneck_update, ctrl_update, shared_update
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
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_mem import UserError
from fairseq_mem.updates import UPDATES

with_controller = pytest.mark.parametrize("update", ["ctrl", "ctrl-shared", "bottleneck"])


# 6. The equations


@every_update
@pytest.mark.parametrize("pre_norm", [False, True])
def test_equals_the_equations_position_by_position(update, pre_norm):
    model = make(update, encoder_normalize_before=pre_norm)
    encoder = model.encoder
    x, padding = encoder_input(encoder)
    for layer, controller in zip(encoder.layers, controllers(encoder), strict=True):
        if update == "shared":
            x = shared_update(layer, x, padding)
        else:
            reference = bottleneck_update if update == "bottleneck" else ctrl_update
            x = reference(layer, controller, x, padding, M)
    if pre_norm:
        x = encoder.layer_norm(x)
    out = encoder(SOURCE)["encoder_out"][0]
    real = ~padding.T
    torch.testing.assert_close(out[real], x[real], **EXACT)


@every_update
def test_gradcheck(update):
    encoder = make(update).encoder
    layer, controller = encoder.layers[0], encoder.controller
    shared = {} if controller is None else {"controller": controller}
    padding = encoder_input(encoder)[1][:2]
    x = torch.randn(padding.size(1), 2, 16, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, encoder_padding_mask=padding, **shared), x)


# 1. Parameters


@pytest.mark.parametrize(
    ("update", "controllers"), [("ctrl", 6), ("ctrl-shared", 1), ("bottleneck", 6)]
)
def test_a_controller_has_as_many_parameters_as_the_paper_says(update, controllers):
    """Base size: 4 d^2 + 4 d (attention), 2 d d_ff + d_ff + d (FF), 4 d (norms) = 3,152,384."""
    sizes = {}
    base = dict(
        encoder_layers=6,
        encoder_embed_dim=512,
        encoder_ffn_embed_dim=2048,
        encoder_attention_heads=8,
        decoder_layers=1,
        decoder_embed_dim=512,
        decoder_attention_heads=8,
    )
    for name in ("shared", update):
        model = build(memory_update=name, memory_tokens=20, double=False, **base)
        sizes[name] = sum(p.numel() for p in model.parameters())
    assert sizes[update] - sizes["shared"] == controllers * 3_152_384


@with_controller
def test_new_keys_are_the_controllers(update):
    shared, ours = make("shared").state_dict(), make(update).state_dict()
    new = set(ours) - set(shared)
    assert set(shared) <= set(ours)
    layer = {
        k.removeprefix("encoder.layers.0.") for k in shared if k.startswith("encoder.layers.0.")
    }
    homes = (
        ["encoder.controller"]
        if update == "ctrl-shared"
        else [f"encoder.layers.{number}.controller" for number in range(2)]
    )
    assert new == {f"{home}.{name}" for home in homes for name in layer}


@pytest.mark.parametrize(
    ("arch", "update", "tokens"),
    [
        ("mem_ctrl_transformer", "ctrl", 20),
        ("mem_ctrl_transformer_small", "ctrl", 10),
        ("mem_ctrl_transformer_iwslt_de_en", "ctrl", 10),
        ("mem_ctrl_shared_transformer", "ctrl-shared", 20),
        ("mem_ctrl_shared_transformer_small", "ctrl-shared", 10),
        ("mem_ctrl_shared_transformer_iwslt_de_en", "ctrl-shared", 10),
        ("mem_bottleneck_transformer", "bottleneck", 20),
        ("mem_bottleneck_transformer_small", "bottleneck", 10),
        ("mem_bottleneck_transformer_iwslt_de_en", "bottleneck", 10),
    ],
)
def test_architectures_set_the_update(arch, update, tokens):
    model = build(arch)
    assert type(model.encoder.layers[0]) is UPDATES[update]
    assert model.encoder.memory.tokens == tokens
    assert build("mem_transformer", memory_update=update).encoder.update is UPDATES[update]


# 2, 3, 4. Padding, steps, causality


@every_update
@pytest.mark.parametrize("decoder_tokens", [0, 2])
def test_a_padded_batch_equals_each_sentence_alone(update, decoder_tokens):
    model = make(update, memory_decoder_tokens=decoder_tokens)
    assert_padding_changes_nothing(model, SOURCE, TARGET, **EXACT)


@every_update
@pytest.mark.parametrize("decoder_tokens", [0, 2])
def test_steps_equal_teacher_forcing_also_after_reordering(update, decoder_tokens):
    model = make(update, memory_decoder_tokens=decoder_tokens)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 8, 9, 10], [2, 11, 12, 13]]).repeat_interleave(2, 0)
    tokens[1::2, 1:] += 2
    source = SOURCE.repeat_interleave(2, 0)
    encoder_out, state = model.encoder(source), {}
    for step in range(4):
        if step == 2:
            order = torch.tensor([1, 0, 3, 3, 4, 5])
            tokens = torch.cat([tokens[order][:, :2], tokens[:, 2:]], dim=1)
            model.decoder.reorder_incremental_state_scripting(state, order)
            encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        now = tokens[:, : step + 1]
        out = model.decoder(now, encoder_out=encoder_out, incremental_state=state)[0]
        torch.testing.assert_close(out, logits(model, source, now)[:, -1:], **EXACT)


@every_update
def test_a_later_token_changes_no_earlier_logit(update):
    model = make(update, memory_decoder_tokens=2)
    previous = torch.tensor([[2, 5, 6, 7, 8]])
    before = logits(model, SOURCE[:1], previous)
    previous[0, 3] = 15
    after = logits(model, SOURCE[:1], previous)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


# 5. Who can influence whom


def influence(model, layer=0):
    """Whether position j's input reaches position i's output in one layer: (m+T) x (m+T) bools."""
    encoder = model.encoder
    shared = {} if encoder.controller is None else {"controller": encoder.controller}
    x, _ = encoder_input(encoder, SOURCE[:1])

    def run(flat):
        out = encoder.layers[layer](flat[:, None], encoder_padding_mask=None, **shared)
        return out[:, 0]

    jacobian = torch.autograd.functional.jacobian(run, x[:, 0])  # T x C x T x C
    return jacobian.abs().amax(dim=(1, 3)) > 0


@pytest.mark.parametrize("update", ["shared", "ctrl", "ctrl-shared"])
def test_everybody_reads_everybody(update):
    assert influence(make(update)).all()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_in_the_bottleneck_everything_goes_through_memory(pre_norm):
    """Cut memory's update off, and no token's output depends on another token's input."""
    model = make("bottleneck", encoder_normalize_before=pre_norm)
    assert influence(model).all()  # by way of memory
    model.encoder.layers[0].controller.read = lambda memory, x, padding: memory.detach()
    text = influence(model)[M:, M:]
    assert torch.equal(text, torch.eye(6, dtype=torch.bool))


def test_ctrl_memory_does_not_see_the_texts_update_of_the_same_layer():
    model = make("ctrl")
    layer = model.encoder.layers[0]
    x, padding = encoder_input(model.encoder)
    before = layer(x, padding)
    with torch.no_grad():
        layer.fc2.weight.mul_(2)
    after = layer(x, padding)
    assert torch.equal(before[:M], after[:M])
    assert not torch.allclose(before[M:], after[M:])


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest result of any operation."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("padded", [False, True])
def test_the_bottleneck_builds_nothing_quadratic(padded):
    largest = {}
    for n in (256, 512):
        lengths = [n, n - 7] if padded else [n]
        model = make("bottleneck", tokens=4, max_source_positions=2048).train()
        with LargestTensor() as noted:
            out = model.encoder(sentences(lengths))["encoder_out"][0]
            out.sum().backward()
        largest[n] = noted.largest
    assert largest[512] <= 2.1 * largest[256]
    assert largest[512] < 512 * 512


# 6. Gradients, half precision


@every_update
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_every_parameter_gets_a_gradient(update, checkpoint_activations):
    model = make(
        update, memory_decoder_tokens=2, checkpoint_activations=checkpoint_activations
    ).train()
    logits(model, SOURCE, shifted(TARGET)).pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # a softmax does not see a constant added to it
            assert parameter.grad.abs().sum() > 0, name


@every_update
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(update, dtype):
    model = make(update, memory_decoder_tokens=2).to(dtype).train()
    source = SOURCE.clone()
    source[1] = dictionary().pad()
    out = logits(model, source, shifted(TARGET))
    out.float().log_softmax(-1).sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_update
@pytest.mark.parametrize("dropout", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_on_memory_and_text_in_training_only(update, dropout):
    encoder = make(update, **{dropout: 0.5}).encoder
    shared = {} if encoder.controller is None else {"controller": encoder.controller}
    x, padding = encoder_input(encoder)

    def twice():
        return [encoder.layers[0](x, encoder_padding_mask=padding, **shared) for _ in range(2)]

    first, second = twice()
    assert torch.equal(first, second)
    encoder.train()
    first, second = twice()
    for part in (slice(None, M), slice(M, None)):
        assert not torch.allclose(first[part], second[part])


@with_controller
def test_residual_dropout_acts_behind_attention_and_behind_the_feed_forward_part(update):
    layer = make(update, dropout=0.5).encoder.layers[0].train()
    masks = []
    layer.dropout_module.register_forward_hook(lambda *_: masks.append(1))
    layer.read(torch.randn(4, 2, 16).double(), torch.randn(3, 2, 16).double())
    assert len(masks) == 2


@pytest.mark.parametrize("pre_norm", [False, True])
def test_ctrl_begins_as_the_mem_transformer_it_was_started_from(pre_norm, caplog):
    start = make("shared", seed=5, encoder_normalize_before=pre_norm)
    ours = make("ctrl", encoder_normalize_before=pre_norm)
    ours.load_state_dict(states(start))
    assert len(caplog.records) == 1 and "begins as a copy" in caplog.text
    previous = shifted(TARGET)
    torch.testing.assert_close(
        logits(ours, SOURCE, previous), logits(start, SOURCE, previous), **EXACT
    )


@with_controller
def test_controllers_begin_as_copies_also_from_a_stock_checkpoint(update):
    start = build("transformer", seed=5)
    ours = make(update)
    ours.load_state_dict(states(start))
    for number, controller in enumerate(controllers(ours.encoder)):
        layer = ours.encoder.layers[0 if update == "ctrl-shared" else number]
        for name, value in controller.state_dict().items():
            assert torch.equal(value, layer.state_dict()[name])
    assert (controllers(ours.encoder)[0] is controllers(ours.encoder)[1]) == (
        update == "ctrl-shared"
    )


@with_controller
def test_a_checkpoint_with_controllers_keeps_them(update, caplog):
    start, ours = make(update, seed=5), make(update)
    ours.load_state_dict(states(start))
    assert not caplog.records
    for name, value in start.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])


@with_controller
def test_memory_only_trains_memory_and_its_controller(update):
    model = make(update, memory_only=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "encoder.memory.weight" in trained
    assert all("controller" in name or "memory" in name for name in trained)
    assert len(trained) == 1 + 16 * (1 if update == "ctrl-shared" else 2)


# Fewer slots, and lesions


@every_update
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_evaluating_with_the_first_slots(update, kept):
    whole = make(update)
    part = make(update, tokens=kept, seed=8)
    part.load_state_dict(states(whole))
    encoder = whole.encoder
    x, padding = encoder_input(part.encoder) if kept else encoder_input(encoder)
    if not kept:
        x, padding = x[M:], padding[:, M:]
    for layer, controller in zip(encoder.layers, controllers(encoder), strict=True):
        if update == "shared":
            x = shared_update(layer, x, padding)
        else:
            reference = bottleneck_update if update == "bottleneck" else ctrl_update
            x = reference(layer, controller, x, padding, kept)
    out = part.encoder(SOURCE)["encoder_out"][0]
    real = ~padding.T
    assert out.size(0) == kept + SOURCE.size(1)
    torch.testing.assert_close(out[real], x[real], **EXACT)


@with_controller
def test_training_a_controller_without_memory_is_refused(update):
    model = make(update, tokens=0).train()
    with pytest.raises(UserError, match="nothing to train with 0 memory tokens"):
        model(SOURCE, None, SOURCE)
