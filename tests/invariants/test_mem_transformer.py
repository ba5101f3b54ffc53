"""The invariants of a translation model with memory, in float64 (numbers as in the design)."""

import copy
from types import SimpleNamespace

import pytest
import torch
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from helpers.random_models import (
    EXACT,
    assert_padding_changes_nothing,
    build,
    dictionary,
    logits,
    sentences,
    shifted,
)
from helpers.references.layers import shared_update

from fairseq_mem import MemTransformerModel, UserError

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
BOTH = dict(memory_tokens=3, memory_decoder_tokens=2)
VARIANTS = {
    "encoder": dict(memory_tokens=3),
    "decoder": dict(memory_tokens=0, memory_decoder_tokens=2),
    "both": BOTH,
    "both, positions": dict(BOTH, memory_positions=True),
    "both, learned positions": dict(
        BOTH, memory_positions=True, encoder_learned_pos=True, decoder_learned_pos=True
    ),
    "both, pre-norm": dict(BOTH, encoder_normalize_before=True, decoder_normalize_before=True),
    "both, no positions": dict(BOTH, no_token_positional_embeddings=True),
    "both, embedding norm": dict(BOTH, layernorm_embedding=True, no_scale_embedding=True),
    "both, shared embeddings": dict(BOTH, share_all_embeddings=True),
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


# 1. Without memory this is fairseq's model


def test_zero_tokens_is_fairseqs_model_bit_for_bit():
    ours = build("mem_transformer", memory_tokens=0, double=False).train()
    stock = build("transformer", double=False).train()
    assert type(ours.encoder) is TransformerEncoderBase
    assert type(ours.decoder) is TransformerDecoderBase
    assert list(ours.state_dict()) == list(stock.state_dict())
    losses = []
    for model in (ours, stock):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            out = logits(model, SOURCE, shifted(TARGET))
            loss = torch.nn.functional.cross_entropy(
                out.transpose(1, 2), TARGET, ignore_index=dictionary().pad()
            )
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        assert loss.isfinite()
    assert losses[0] == losses[1]
    for name, value in ours.state_dict().items():
        assert torch.equal(value, stock.state_dict()[name]), name


def test_zero_tokens_can_be_scripted_as_fairseqs_model():
    args = build(memory_tokens=0).args
    words = SimpleNamespace(source_dictionary=dictionary(), target_dictionary=dictionary())
    ours = MemTransformerModel.build_model(args, words).eval()
    stock = build("transformer", double=False)
    stock.load_state_dict(ours.state_dict())
    lengths = SOURCE.ne(dictionary().pad()).sum(1)
    scripted, expected = (
        torch.jit.script(model)(SOURCE, lengths, shifted(TARGET))[0]
        for model in (copy.deepcopy(ours), stock)
    )
    assert torch.equal(scripted, expected)


@pytest.mark.parametrize(
    ("options", "new"),
    [
        (dict(memory_tokens=3), {"encoder.memory.weight": 3 * 16}),
        (
            dict(memory_tokens=0, memory_decoder_tokens=2, decoder_embed_dim=12),
            {"decoder.memory.weight": 2 * 12},
        ),
        (BOTH, {"encoder.memory.weight": 3 * 16, "decoder.memory.weight": 2 * 16}),
    ],
)
def test_new_keys_and_parameter_count(options, new):
    ours = build("mem_transformer", **options)
    stock = build("transformer", **{k: v for k, v in options.items() if "memory" not in k})
    assert set(ours.state_dict()) - set(stock.state_dict()) == set(new)
    assert set(stock.state_dict()) <= set(ours.state_dict())
    extra = sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in stock.parameters())
    assert extra == sum(new.values())


@pytest.mark.parametrize(
    ("arch", "layers", "width", "hidden", "heads", "tokens"),
    [
        ("mem_transformer", 6, 512, 2048, 8, 20),
        ("mem_transformer_small", 4, 128, 512, 8, 10),
        ("mem_transformer_iwslt_de_en", 6, 512, 1024, 4, 10),
        ("mem_transformer_wmt_de_en", 6, 512, 2048, 8, 20),
        ("mem_transformer_big", 6, 1024, 4096, 16, 20),
    ],
)
def test_presets(arch, layers, width, hidden, heads, tokens):
    from argparse import Namespace

    from fairseq.models import ARCH_CONFIG_REGISTRY

    args = Namespace()
    ARCH_CONFIG_REGISTRY[arch](args)
    for side in ("encoder", "decoder"):
        sizes = [
            getattr(args, f"{side}_{name}")
            for name in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
        ]
        assert sizes == [layers, width, hidden, heads]
    assert (args.memory_tokens, args.memory_decoder_tokens) == (tokens, 0)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_equals_the_paper_position_by_position(pre_norm):
    model = build(memory_tokens=3, encoder_normalize_before=pre_norm)
    encoder = model.encoder
    padding = SOURCE.eq(encoder.padding_idx)
    text = encoder.forward_embedding(SOURCE)[0].masked_fill(padding[..., None], 0).transpose(0, 1)
    x = torch.cat([encoder.memory.weight[:, None].expand(-1, 3, -1), text])
    padding = torch.cat([torch.zeros(3, 3, dtype=torch.bool), padding], dim=1)
    for layer in encoder.layers:
        x = shared_update(layer, x, padding)
    if pre_norm:
        x = encoder.layer_norm(x)
    out = encoder(SOURCE)["encoder_out"][0]
    keep = ~padding.T
    torch.testing.assert_close(out[keep], x[keep], **EXACT)


def test_memory_starts_at_the_scale_of_the_embedded_text():
    big = dict(encoder_embed_dim=256, decoder_embed_dim=256, encoder_attention_heads=4)
    for no_scale, expected in ((False, 1.0), (True, 256**-0.5)):
        model = build(memory_tokens=50, no_scale_embedding=no_scale, **big)
        assert model.encoder.memory.weight.std().item() == pytest.approx(expected, rel=0.05)
    model = build(memory_tokens=50, memory_init_std=0.2, **big)
    assert model.encoder.memory.weight.std().item() == pytest.approx(0.2, rel=0.05)


# 2. Padding changes nothing


@every_variant
def test_a_padded_batch_equals_each_sentence_alone(options):
    model = build(**options)
    assert_padding_changes_nothing(model, SOURCE, TARGET, **EXACT)


def test_a_row_of_nothing_but_padding_gives_no_nan():
    model = build(**BOTH).train()
    source = SOURCE.clone()
    source[1] = dictionary().pad()
    target = shifted(TARGET)
    target[2] = dictionary().pad()
    out = logits(model, source, target)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# 3. Step by step equals all at once


@every_variant
def test_incremental_decoding_equals_teacher_forcing_also_after_reordering(options):
    """Three sentences with a beam of two, whose hypotheses are swapped and replaced on the way."""
    model = build(**options)
    beam, steps = 2, 6
    source = SOURCE.repeat_interleave(beam, 0)
    tokens = torch.full((6, 1), dictionary().eos())
    encoder_out = model.encoder.reorder_encoder_out(
        model.encoder(SOURCE), torch.arange(3).repeat_interleave(beam)
    )
    generator = torch.Generator().manual_seed(5)
    state = {}
    orders = [[0, 0, 3, 2, 5, 5], [1, 0, 2, 2, 4, 5], [1, 1, 3, 2, 5, 4]]
    for step in range(steps):
        if step >= 2:
            order = torch.tensor(orders[step % 3])
            tokens = tokens[order]
            model.decoder.reorder_incremental_state_scripting(state, order)
            encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        out, extra = model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)
        expected = logits(model, source, tokens)[:, -1:]
        torch.testing.assert_close(out, expected, **EXACT)
        if not options.get("no_token_positional_embeddings"):
            assert not torch.allclose(out[0], out[2])  # sentences do differ
        attention = extra["attn"][0]
        assert attention.shape == (6, 1, SOURCE.size(1))
        new = torch.randint(4, len(dictionary()), (6, 1), generator=generator)
        tokens = torch.cat([tokens, new], dim=1)


def test_hypotheses_leaving_the_batch_take_their_cache_along():
    model = build(**BOTH)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 8, 9, 10], [2, 11, 12, 13]])
    encoder_out, state = model.encoder(SOURCE), {}
    for step in range(2):
        model.decoder(tokens[:, : step + 1], encoder_out=encoder_out, incremental_state=state)
    left = torch.tensor([0, 2])
    model.decoder.reorder_incremental_state_scripting(state, left)
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, left)
    out = model.decoder(tokens[left, :3], encoder_out=encoder_out, incremental_state=state)[0]
    expected = logits(model, SOURCE[left], tokens[left, :3])[:, -1:]
    torch.testing.assert_close(out, expected, **EXACT)


# 4. Causality


@every_variant
def test_a_later_token_changes_no_earlier_logit(options):
    model = build(**options)
    previous = torch.tensor([[2, 5, 6, 7, 8]])
    before = logits(model, SOURCE[:1], previous)
    for t in range(1, 5):
        changed = previous.clone()
        changed[0, t] = 15
        after = logits(model, SOURCE[:1], changed)
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.allclose(before[:, t:], after[:, t:])


def test_full_context_frees_the_text_but_not_decoder_memory():
    model = build(**BOTH)
    encoder_out = model.encoder(SOURCE[:1])
    inside = []
    model.decoder.layers[0].register_forward_hook(lambda _m, _i, out: inside.append(out[0]))
    previous = torch.tensor([[2, 5, 6, 7, 8]])
    changed = previous.clone()
    changed[0, 4] = 15
    first, second = (
        model.decoder(tokens, encoder_out=encoder_out, full_context_alignment=True)[0]
        for tokens in (previous, changed)
    )
    assert not torch.allclose(first[:, :4], second[:, :4])
    assert torch.equal(inside[0][:2], inside[1][:2])
    assert not torch.allclose(inside[0][2:6], inside[1][2:6])


def test_a_memory_slot_of_the_decoder_sees_earlier_slots_only():
    model = build(**BOTH)
    encoder_out = model.encoder(SOURCE[:1])
    inside = []
    model.decoder.layers[-1].register_forward_hook(lambda _m, _i, out: inside.append(out[0]))
    previous = torch.tensor([[2, 5]])
    model.decoder(previous, encoder_out=encoder_out)
    with torch.no_grad():
        model.decoder.memory.weight[1] += 1
    model.decoder(previous, encoder_out=encoder_out)
    assert torch.equal(inside[0][0], inside[1][0])
    assert not torch.allclose(inside[0][1:], inside[1][1:])


# 6. Gradients, half precision


@every_variant
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_every_parameter_gets_a_gradient(options, checkpoint_activations):
    model = build(checkpoint_activations=checkpoint_activations, **options).train()
    logits(model, SOURCE, shifted(TARGET)).pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # a softmax does not see a constant added to it
            assert parameter.grad.abs().sum() > 0, name


def test_checkpointed_activations_give_the_same_gradients():
    gradients = []
    for checkpointed in (False, True):
        model = build(checkpoint_activations=checkpointed, **BOTH).train()
        logits(model, SOURCE, shifted(TARGET)).pow(2).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    model = build(**BOTH).to(dtype).train()
    out = logits(model, SOURCE, shifted(TARGET))
    out.float().log_softmax(-1).sum().backward()
    assert out.dtype == dtype and out.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_layer_drop_trains_and_evaluates():
    model = build(encoder_layerdrop=0.5, decoder_layerdrop=0.5, **BOTH)
    plain = build(**BOTH)
    plain.load_state_dict(model.state_dict())
    previous = shifted(TARGET)
    torch.testing.assert_close(logits(model, SOURCE, previous), logits(plain, SOURCE, previous))
    model.train()
    results = {round(logits(model, SOURCE, previous).sum().item(), 6) for _ in range(12)}
    assert len(results) > 1


# 7 and 8. Checkpoints


def states(model):
    return copy.deepcopy(model.state_dict())


def test_a_stock_checkpoint_loads_with_one_warning(caplog):
    stock, ours = build("transformer", seed=4), build(memory_tokens=3)
    fresh = ours.encoder.memory.weight.detach().clone()
    ours.load_state_dict(states(stock), strict=True)
    assert len(caplog.records) == 1
    assert "3 memory tokens are freshly initialised" in caplog.text
    assert torch.equal(ours.encoder.memory.weight, fresh)
    for name, value in stock.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])
    without = build(memory_tokens=0)
    without.load_state_dict(states(ours))
    previous = shifted(TARGET)
    torch.testing.assert_close(
        logits(without, SOURCE, previous), logits(stock, SOURCE, previous), rtol=0, atol=0
    )


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_evaluating_with_the_first_slots(kept, positions):
    whole = build(memory_positions=positions, **BOTH)
    part = build(memory_positions=positions, memory_tokens=kept, memory_decoder_tokens=2, seed=9)
    part.load_state_dict(states(whole))
    out = part.encoder(SOURCE)["encoder_out"][0]
    assert out.size(0) == kept + SOURCE.size(1)
    # the same by hand: the other slots masked, and text positions as trained
    padding = SOURCE.eq(dictionary().pad())
    x = whole.encoder.forward_embedding(SOURCE)[0].masked_fill(padding[..., None], 0)
    codes = whole.encoder._codes(SOURCE[:1])[0, :3] if positions else None
    x = whole.encoder.memory.prepend(x.transpose(0, 1), codes)
    padding = torch.cat([torch.zeros(3, 3, dtype=torch.bool), padding], dim=1)
    padding[:, kept:3] = True
    for layer in whole.encoder.layers:
        x = layer(x, encoder_padding_mask=padding)
    keep = torch.cat([torch.arange(kept), torch.arange(3, x.size(0))])
    real = ~padding[:, keep].T
    torch.testing.assert_close(out[real], x[keep][real], **EXACT)


def test_fewer_slots_than_asked_for_need_memory_grow(caplog):
    small, big = build(memory_tokens=2, seed=7), build(memory_tokens=5)
    with pytest.raises(UserError, match=r"has 2 memory tokens in its encoder, 5 were asked for"):
        big.load_state_dict(states(small))
    grown = build(memory_tokens=5, memory_grow=True)
    fresh = grown.encoder.memory.weight.detach().clone()
    grown.load_state_dict(states(small))
    assert torch.equal(grown.encoder.memory.weight[:2], small.encoder.memory.weight)
    assert torch.equal(grown.encoder.memory.weight[2:], fresh[2:])
    assert "3 more are freshly initialised" in caplog.text


def test_memory_only_trains_nothing_else():
    model = build(memory_only=True, **BOTH)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["encoder.memory.weight", "decoder.memory.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(memory_tokens=-1), "memory_tokens is -1"),
        (dict(memory_tokens=10**6), "memory_tokens is 1000000"),
        (dict(memory_decoder_tokens=1.5), "memory_decoder_tokens is 1.5"),
        (dict(memory_update="magic"), "memory_update is 'magic'"),
        (dict(memory_init_std=0.0), "memory_init_std is 0"),
        (dict(memory_tokens=0, memory_only=True), "there is none; give --memory-tokens"),
        (dict(memory_only=True, no_cross_attention=True), "nobody reads"),
        (dict(cross_self_attention=True), "--cross-self-attention"),
        (
            dict(memory_positions=True, no_token_positional_embeddings=True),
            "no position codes to give",
        ),
        (
            dict(adaptive_softmax_cutoff="8,16", adaptive_softmax_factor=5.0),
            "adaptive_softmax_factor 5 leaves the last of 3 bands no width",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_positions_number_memory_and_text_through():
    """Slot i takes fairseq's code i; text goes on from there, wherever its padding is."""
    model = build(memory_tokens=3, memory_positions=True)
    encoder = model.encoder
    table = encoder.embed_positions.weights
    pad = encoder.padding_idx
    x, embed = encoder.forward_embedding(SOURCE)
    for row, length in enumerate([6, 3, 5]):
        codes = (x - embed)[row, 6 - length :]
        torch.testing.assert_close(codes, table[pad + 1 + 3 : pad + 1 + 3 + length].double())
    inputs = []
    encoder.layers[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    encoder(SOURCE)
    codes = inputs[0][:3] - encoder.memory.weight[:, None]
    torch.testing.assert_close(codes[:, 1], table[pad + 1 : pad + 4].double())


def test_memory_is_untouched_by_the_texts_scale_norm_and_dropout():
    model = build(memory_tokens=3, layernorm_embedding=True, dropout=0.9).train()
    inputs = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    model.encoder(SOURCE)
    for b in range(3):
        assert torch.equal(inputs[0][:3, b], model.encoder.memory.weight)


def test_learned_positions_leave_room_for_memory():
    options = dict(
        memory_tokens=3, encoder_learned_pos=True, max_source_positions=12, memory_positions=True
    )
    model = build(**options)
    assert model.encoder.max_positions() == 12 - 3
    model.encoder(sentences([9]))
    options["memory_positions"] = False
    assert build(**options).encoder.max_positions() == 12
