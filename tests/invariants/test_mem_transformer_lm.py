"""``mem_transformer_lm``: the invariants, in float64."""

import copy
import math
from argparse import Namespace

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerDecoder
from fairseq.tasks.language_modeling import LanguageModelingTask
from helpers.language_models import TINY_LM, WIDTHS, normalized, scores
from helpers.random_models import EXACT, build, dictionary, sentences, shifted
from helpers.references.language_model import log_probabilities

from fairseq_mem import UserError

TEXT = sentences([6, 3, 8], seed=3)  # padded on the right, as fairseq pads blocks
INPUT = shifted(TEXT)
SIZE = dict(
    memory_tokens=3, decoder_input_dim=16, decoder_output_dim=16, tokens_per_sample=20,
    max_target_positions=None,
)  # fmt: skip
ADAPTIVE = dict(
    adaptive_input=True, adaptive_input_cutoff="8,16", adaptive_softmax_cutoff="8,16",
    tie_adaptive_weights=True, tie_adaptive_proj=True, decoder_normalize_before=True,
    no_decoder_final_norm=True, adaptive_input_factor=2, adaptive_softmax_factor=2,
)  # fmt: skip
VARIANTS = {
    "post-norm": {},
    "pre-norm": dict(decoder_normalize_before=True),
    "positions": dict(memory_positions=True),
    "learned positions": dict(
        memory_positions=True, decoder_learned_pos=True, max_target_positions=23
    ),
    "no positions": dict(no_token_positional_embeddings=True),
    "adaptive": ADAPTIVE,
    "shared embedding": dict(share_decoder_input_output_embed=True, no_scale_embedding=True),
    "other widths": dict(decoder_input_dim=12, decoder_output_dim=8),
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def build_lm(**options):
    return build("mem_transformer_lm", **{**SIZE, **options})


# 1. Without memory this is fairseq's model


def from_command_line(arch, *flags):
    """Task, model and criterion as fairseq-train builds them."""
    parser = fairseq_options.get_training_parser()
    words = ["nowhere", "--task", "language_modeling", "--arch", arch, *flags]
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words))
    task = LanguageModelingTask(cfg.task, dictionary())
    torch.manual_seed(3)
    model = task.build_model(cfg.model)
    return model, task.build_criterion(cfg.criterion)


CUTOFFS = "--adaptive-input-cutoff 8,16 --adaptive-softmax-cutoff 8,16".split()
SIZES = [
    ("", []),
    ("", WIDTHS),
    ("_wiki103", [*CUTOFFS, "--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"]),
    ("_gpt2_small", ["--share-decoder-input-output-embed"]),
]


@pytest.mark.parametrize(("size", "flags"), SIZES)
def test_zero_tokens_is_fairseqs_model_bit_for_bit(size, flags):
    """Same keys, same losses and the same weights after two updates with dropout."""
    sample = {
        "net_input": {"src_tokens": INPUT, "src_lengths": INPUT.ne(1).sum(1)},
        "target": TEXT, "ntokens": int(TEXT.ne(1).sum()), "nsentences": 3,
    }  # fmt: skip
    results = []
    for arch, memory in (("mem_transformer_lm", ["--memory-tokens", "0"]), ("transformer_lm", [])):
        model, criterion = from_command_line(arch + size, *TINY_LM, *flags, *memory)
        assert type(model.decoder) is TransformerDecoder
        optimizer = torch.optim.Adam(model.train().parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = criterion(model, sample)[0]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        results.append((losses, model.state_dict()))
    (ours, our_state), (theirs, their_state) = results
    assert ours == theirs and math.isfinite(sum(ours)) and len(set(ours)) == 3
    assert list(our_state) == list(their_state)
    for name, value in our_state.items():
        # fairseq's adaptive modules have a buffer of whatever was in the machine's memory
        assert name.endswith("_float_tensor") or torch.equal(value, their_state[name]), name


@pytest.mark.parametrize(("size", "flags"), SIZES)
def test_new_keys_and_parameter_count(size, flags):
    ours = from_command_line(f"mem_transformer_lm{size}", *TINY_LM, *flags, "--memory-tokens", "5")
    stock = from_command_line(f"transformer_lm{size}", *TINY_LM, *flags)
    ours, stock = ours[0], stock[0]
    assert set(ours.state_dict()) - set(stock.state_dict()) == {"decoder.memory.weight"}
    assert set(stock.state_dict()) <= set(ours.state_dict())
    extra = sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in stock.parameters())
    assert extra == 5 * 16


@pytest.mark.parametrize(
    ("size", "layers", "width", "hidden", "heads", "cutoff"),
    [
        ("", 6, 512, 2048, 8, None),
        ("_wiki103", 16, 1024, 4096, 8, "20000,60000"),
        ("_gpt2_small", 24, 1024, 4096, 16, None),
    ],
)
def test_presets(size, layers, width, hidden, heads, cutoff):
    args = Namespace()
    ARCH_CONFIG_REGISTRY[f"mem_transformer_lm{size}"](args)
    sizes = [args.decoder_layers, args.decoder_embed_dim, args.decoder_ffn_embed_dim]
    assert [*sizes, args.decoder_attention_heads] == [layers, width, hidden, heads]
    assert args.adaptive_softmax_cutoff == args.adaptive_input_cutoff == cutoff
    assert args.memory_tokens == 20


def test_memory_starts_at_the_scale_of_the_embedded_text():
    wide = dict(decoder_embed_dim=256, decoder_input_dim=256, memory_tokens=50)
    for options, expected in (
        ({}, 1), (dict(no_scale_embedding=True), 256**-0.5), (dict(memory_init_std=0.3), 0.3),
    ):  # fmt: skip
        found = build_lm(**wide, **options).decoder.memory.weight.std().item()
        assert found == pytest.approx(expected, rel=0.05)


# 2. Padding changes nothing


@every_variant
def test_a_padded_batch_equals_each_text_alone(options):
    model = build_lm(**options)
    batch = scores(model, INPUT)
    assert batch.shape == (3, 8, len(dictionary()))
    for row, length in enumerate([6, 3, 8]):
        alone = scores(model, INPUT[row : row + 1, :length])
        torch.testing.assert_close(batch[row : row + 1, :length], alone, **EXACT)


@every_variant
def test_padding_on_the_left_changes_nothing_either(options):
    model = build_lm(**options)
    moved = torch.full_like(INPUT, dictionary().pad())
    for row, length in enumerate([6, 3, 8]):
        moved[row, 8 - length :] = INPUT[row, :length]
    batch = scores(model, moved)
    for row, length in enumerate([6, 3, 8]):
        alone = scores(model, INPUT[row : row + 1, :length])
        torch.testing.assert_close(batch[row : row + 1, 8 - length :], alone, **EXACT)


def test_a_row_of_nothing_but_padding_gives_no_nan():
    model = build_lm().train()
    tokens = INPUT.clone()
    tokens[1] = dictionary().pad()
    out = model(tokens)[0]
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# 3. Step by step equals all at once


@every_variant
def test_incremental_decoding_equals_the_whole_also_after_reordering(options):
    """Rows are swapped, doubled and dropped on the way."""
    model = build_lm(**options)
    tokens = torch.full((4, 1), dictionary().eos())
    generator = torch.Generator().manual_seed(5)
    state = {}
    for step in range(7):
        if step >= 2:
            order = torch.tensor([[0, 0, 3, 2], [1, 3, 2, 0], [2, 1, 1]][min(step - 2, 2)])
            order = order if step < 5 else torch.arange(3).flip(0)
            tokens = tokens[order]
            model.decoder.reorder_incremental_state_scripting(state, order)
        out = model.decoder(tokens, incremental_state=state)
        found = normalized(model, out[0])
        torch.testing.assert_close(found, scores(model, tokens)[:, -1:], **EXACT)
        assert out[1]["attn"] == [None]
        new = torch.randint(4, len(dictionary()), (len(tokens), 1), generator=generator)
        tokens = torch.cat([tokens, new], dim=1)
    assert not torch.allclose(found[0], found[1])


def test_incremental_decoding_masks_padding_as_the_whole_does():
    """Without position codes, which fairseq counts differently behind padding."""
    model = build_lm(no_token_positional_embeddings=True)
    pad = dictionary().pad()
    tokens = torch.tensor([[2, 5, 6, 7, 8], [2, 5, pad, 7, 8]])
    state = {}
    for length in range(1, 6):
        whole = scores(model, tokens[:, :length])
        found = normalized(model, model.decoder(tokens[:, :length], incremental_state=state)[0])
        rows = tokens[:, length - 1].ne(pad)
        torch.testing.assert_close(found[rows], whole[rows, -1:], **EXACT)


# 4. Causality


@every_variant
def test_a_later_word_changes_no_earlier_prediction(options):
    model = build_lm(**options)
    words = torch.tensor([[2, 5, 6, 7, 8]])
    before = scores(model, words)
    for t in range(1, 5):
        changed = words.clone()
        changed[0, t] = 15
        after = scores(model, changed)
        torch.testing.assert_close(before[:, :t], after[:, :t], **EXACT)
        assert not torch.allclose(before[:, t:], after[:, t:])


# 6. The reference, gradients


@pytest.mark.parametrize("lesion", ["none", "no-read", "zero-read"])
@pytest.mark.parametrize(
    "options", [{}, dict(decoder_normalize_before=True, memory_positions=True)]
)
def test_equals_the_reference_position_by_position(options, lesion):
    model = build_lm(memory_lesion=lesion, **options)
    expected = log_probabilities(
        model.decoder, INPUT[2].tolist(), options.get("memory_positions", False), lesion
    )
    torch.testing.assert_close(scores(model, INPUT)[2], expected, **EXACT)


@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
def test_a_lesion_is_the_same_step_by_step(lesion):
    model, state = build_lm(memory_lesion=lesion), {}
    expected = scores(model, INPUT[2:])
    for length in range(1, 9):
        found = model.decoder(INPUT[2:, :length], incremental_state=state)[0].log_softmax(-1)
        torch.testing.assert_close(found[:, 0], expected[:, length - 1], **EXACT)


@every_variant
def test_every_parameter_gets_a_gradient(options):
    model = build_lm(**options).train()
    out = model(INPUT)[0]
    softmax = model.decoder.adaptive_softmax
    outs = [out] if softmax is None else softmax(out, TEXT)[0]  # the text has words of every band
    sum(out.pow(2).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # a softmax does not see a constant added to it
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    model = build_lm().to(dtype).train()
    out = model(INPUT)[0]
    out.float().log_softmax(-1).sum().backward()
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_memory_only_trains_nothing_else():
    model = build_lm(memory_only=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["decoder.memory.weight"]


# 7 and 8. Checkpoints


def test_a_stock_checkpoint_loads_with_one_warning(caplog):
    stock, ours = build_lm(memory_tokens=0, seed=4), build_lm()
    fresh = ours.decoder.memory.weight.detach().clone()
    ours.load_state_dict(copy.deepcopy(stock.state_dict()), strict=True)
    assert len(caplog.records) == 1
    assert "3 memory tokens are freshly initialised" in caplog.text
    assert torch.equal(ours.decoder.memory.weight, fresh)
    without = build_lm(memory_tokens=0)
    without.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert torch.equal(scores(without, INPUT), scores(stock, INPUT))


def test_fewer_slots_than_asked_for_need_memory_grow():
    small = build_lm(memory_tokens=2, seed=7)
    with pytest.raises(UserError, match=r"has 2 memory tokens in its decoder, 3 were asked for"):
        build_lm().load_state_dict(copy.deepcopy(small.state_dict()))
    grown = build_lm(memory_grow=True)
    grown.load_state_dict(copy.deepcopy(small.state_dict()))
    assert torch.equal(grown.decoder.memory.weight[:2], small.decoder.memory.weight)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_evaluating_with_the_first_slots(kept, positions):
    """As if the other slots were hidden from everybody, and text numbered as trained."""
    whole = build_lm(memory_positions=positions)
    part = build_lm(memory_positions=positions, memory_tokens=kept, seed=9)
    part.load_state_dict(copy.deepcopy(whole.state_dict()))
    decoder, tokens = whole.decoder, INPUT[2:]
    text, codes = decoder._embed(tokens, None)
    x = decoder.memory.prepend(text.transpose(0, 1), codes)
    mask = torch.ones(11, 11, dtype=torch.bool).triu(1)
    mask[:, kept:3] = True
    for layer in decoder.layers:
        x = layer(x, self_attn_mask=mask)[0]
    expected = decoder.output_layer(x[3:]).transpose(0, 1).log_softmax(-1)
    torch.testing.assert_close(scores(part, tokens), expected, **EXACT)


# What makes no sense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(memory_tokens=-1), "memory_tokens is -1"),
        (dict(memory_decoder_tokens=2), "memory_decoder_tokens is 2, .* a language model has not"),
        (dict(memory_update="ctrl"), "memory_update is 'ctrl', .* a language model has not"),
        (dict(memory_lesion_scope="cross"), "memory_lesion_scope is 'cross', .* has not"),
        (dict(memory_tokens=0, memory_only=True), "there is none; give --memory-tokens"),
        (dict(decoder_xformers_att_config="{}"), "--decoder-xformers-att-config"),
        (
            dict(memory_positions=True, decoder_learned_pos=True),
            "leaves 17 of the 20 learned positions .* is 20; give --max-target-positions 23",
        ),
        (
            {**ADAPTIVE, "adaptive_input_factor": 5},
            r"adaptive_input_factor 5 leaves the last of 3 bands no width \(16 / 5\^2 is below 1\)",
        ),
        (
            dict(adaptive_softmax_cutoff="8,16", adaptive_softmax_factor=20),
            "adaptive_softmax_factor 20 leaves the last of 3 bands no width",
        ),
        ({**ADAPTIVE, "adaptive_input_factor": 0}, "adaptive_input_factor 0 leaves .* above 0"),
        (
            {**ADAPTIVE, "adaptive_input_cutoff": "8,23"},
            r"makes a band of 1 words \(23 to 24\), and fairseq needs 2",
        ),
        (
            {**ADAPTIVE, "adaptive_input_cutoff": "8,99"},
            "adaptive_input_cutoff has 99, and the dictionary has 24 words",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_lm(**options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--self-target"], "asks for the targets self"),
        (["--past-target", "--future-target"], "asks for the targets future, past"),
        (["--tokens-per-sample", "-4"], "leaves -4 of the tokens per sample"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(flags, message):
    parser = fairseq_options.get_training_parser()
    words = ["nowhere", "--task", "language_modeling", "--arch", "mem_transformer_lm", *flags]
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words))
    targets = [name for name in ("self", "future", "past") if cfg.task[f"{name}_target"]]
    task = LanguageModelingTask(cfg.task, dictionary(), targets=targets or None)
    with pytest.raises(UserError, match=message):
        task.build_model(cfg.model)
