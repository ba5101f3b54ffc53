"""What fairseq does to the modules of its `transformer` it does to ours: compared by effect."""

import copy
import logging
from argparse import Namespace
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from fairseq import quantization_utils
from fairseq.checkpoint_utils import load_pretrained_component_from_model, prune_state_dict
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion as FairseqCriterion,
)
from fairseq.models.ema.ema import EMA
from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.modules.quantization import pq
from fairseq.nan_detector import NanDetector
from helpers.random_models import EXACT, build, dictionary, logits, sentences, shifted
from torch import nn

from fairseq_mem import LabelSmoothedCrossEntropyCriterion
from fairseq_mem.attention.fused import FusedAttention

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
UPDATES = ["shared", "ctrl", "ctrl-shared", "bottleneck"]
every_update = pytest.mark.parametrize("update", UPDATES)


def ours(update: str = "shared", **options):
    options = {"memory_tokens": 3, "memory_decoder_tokens": 2, **options}
    return build(memory_update=update, **options)


def teacher_forced(model):
    with torch.no_grad():
        return logits(model, SOURCE, shifted(TARGET))


def step_by_step(model):
    """The same logits by incremental decoding, B x T x V."""
    state: dict = {}
    previous = shifted(TARGET[:1])[:, :5]
    with torch.no_grad():
        encoded = model.encoder(SOURCE[:1])
        steps = [
            model.decoder(previous[:, : end + 1], encoded, incremental_state=state)[0]
            for end in range(previous.size(1))
        ]
    return torch.cat(steps, dim=1)


# ------------------------------------------------------------ dropout


def retained(model, modules) -> dict[str, bool]:
    """Where dropout stays switched on with `--retain-dropout --retain-dropout-modules`."""
    model.make_generation_fast_(retain_dropout=True, retain_dropout_modules=modules)
    return {
        name: module.apply_during_inference
        for name, module in model.named_modules()
        if isinstance(module, FairseqDropout)
    }


OWN_NAMES = sorted(
    {m.module_name for m in build("transformer").modules() if isinstance(m, FairseqDropout)}
)


@pytest.mark.parametrize("module", OWN_NAMES)
def test_dropout_is_retained_where_fairseq_retains_it(module):
    """`--retain-dropout-modules TransformerEncoder` found nothing in a model with memory."""
    stock = retained(build("transformer"), [module])
    assert any(stock.values()) and not all(stock.values())
    assert retained(ours(), [module]) == stock


@every_update
def test_all_dropout_has_a_name_that_fairseqs_has(update):
    dropouts = [m for m in ours(update).modules() if isinstance(m, FairseqDropout)]
    assert dropouts and {m.module_name for m in dropouts} <= set(OWN_NAMES)


@pytest.mark.parametrize("module", OWN_NAMES)
def test_retained_dropout_drops(module):
    model = ours(dropout=0.3, attention_dropout=0.3, activation_dropout=0.3)
    before = teacher_forced(model)
    assert torch.equal(teacher_forced(model), before)
    retained(model, [module])
    assert not torch.equal(teacher_forced(model), teacher_forced(model))


# ------------------------------------------------------------ quantisation


def quantise_scalar(model, monkeypatch, noise: float = 0.5):
    """As a task does with `--quant-noise-scalar`."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)  # fairseq wants a GPU here
    return quantization_utils.quantize_model_scalar(model, Namespace(quant_noise_scalar=noise))


@every_update
def test_scalar_quantisation_leaves_no_layer_out(update, monkeypatch):
    model = quantise_scalar(ours(update), monkeypatch)
    kinds = [type(module) for module in model.modules()]
    assert nn.Linear not in kinds and nn.Embedding not in kinds
    model.train()
    logits(model, SOURCE, shifted(TARGET)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_update
def test_what_is_quantised_is_so_in_decoding_too(update, monkeypatch):
    """Decoding took the weights as they were before quantisation."""
    model = quantise_scalar(ours(update), monkeypatch)
    before = teacher_forced(model), step_by_step(model)
    model.make_generation_fast_()
    torch.testing.assert_close((teacher_forced(model), step_by_step(model)), before, **EXACT)


@every_update
def test_product_quantisation(update, monkeypatch):
    """`--quantization-config-path`: by the names of fairseq's layers, and of the controllers."""
    model = ours(update).float()
    tracker = pq.SizeTracker(model)
    layers = r"(en|de)coder\.(layers\.\d+\.)?(controller\.)?"
    projections = r"((self|encoder)_attn\.(q|k|v|out)_proj|fc[12])"
    sizes = {"Linear": ("in_features", {"*": 8}), "Embedding": ("embedding_dim", {"*": 8})}
    centroids = {"Linear": ("in_features", {"*": 4}), "Embedding": ("embedding_dim", {"*": 4})}
    for names in (layers + projections, r"(en|de)coder\.embed_tokens"):
        pq.quantize_model_(model, tracker, [names], sizes, centroids, verbose=False)
    left = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert left == ["decoder.output_projection"]
    model.train()
    logits(model, SOURCE, shifted(TARGET)).sum().backward()
    model.eval().double()
    before = teacher_forced(model), step_by_step(model)
    model.make_generation_fast_()
    torch.testing.assert_close((teacher_forced(model), step_by_step(model)), before, **EXACT)


# ------------------------------------------------------------ what is done to a projection


def test_a_hook_on_a_projection_works_in_decoding_too():
    """An adapter for one: what it adds was left out of decoding."""
    model = ours()
    for module in model.modules():
        if isinstance(module, FusedAttention):
            module.v_proj.register_forward_hook(lambda module, given, out: 2 * out)
    before = teacher_forced(model), step_by_step(model)
    model.make_generation_fast_()
    torch.testing.assert_close((teacher_forced(model), step_by_step(model)), before, **EXACT)


def test_a_hook_on_the_output_projection_works_in_the_fused_loss_too():
    losses = []
    for criterion in (FairseqCriterion, LabelSmoothedCrossEntropyCriterion):
        model = ours()
        model.decoder.output_projection.register_forward_hook(lambda module, given, out: 2 * out)
        task = SimpleNamespace(target_dictionary=dictionary())
        lengths = SOURCE.ne(1).sum(1)
        given = {
            "src_tokens": SOURCE,
            "src_lengths": lengths,
            "prev_output_tokens": shifted(TARGET),
        }
        sample = {"net_input": given, "target": TARGET, "ntokens": 14}
        chosen = criterion(task, sentence_avg=False, label_smoothing=0.1)
        losses.append(chosen(model, sample)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_weights_loaded_after_the_preparation_for_inference_count():
    model, other = ours(), ours(seed=2)
    model.make_generation_fast_()
    teacher_forced(model)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(teacher_forced(model), teacher_forced(other), **EXACT)


def pruned_and_masked(update: str, prepared: bool):
    """A model without some heads and hidden units, and one in which they count for nothing."""
    pruned, masked = (
        ours(update, encoder_attention_heads=4, decoder_attention_heads=4) for _ in range(2)
    )
    if prepared:
        pruned.make_generation_fast_()
    count = 0
    for part, whole in zip(pruned.modules(), masked.modules(), strict=True):
        if isinstance(part, MultiheadAttention):
            kept = part._get_reserve_head_index(num_heads_to_keep=2)
            part._adaptive_prune_heads(kept)
            part._set_skip_embed_dim_check()
            channels = torch.zeros(16)
            for start, end in kept:
                channels[start:end] = 1
            whole.out_proj.weight.data *= channels
            count += 1
        if hasattr(part, "_prune_fc_layer"):
            dropped = part._get_fc_rank(remove_num=5)
            part._prune_fc_layer(dropped)
            whole.fc2.weight.data[:, dropped] = 0
            count += 1
    assert count >= 8  # two layers of each: attention three times, hidden units in the encoder
    return pruned, masked


@every_update
@pytest.mark.parametrize("prepared", [False, True])
def test_pruned_heads_and_hidden_units(update, prepared):
    """After the preparation for inference pruning ended in an error of shapes."""
    pruned, masked = pruned_and_masked(update, prepared)
    torch.testing.assert_close(teacher_forced(pruned), teacher_forced(masked), **EXACT)
    torch.testing.assert_close(step_by_step(pruned), step_by_step(masked), **EXACT)


# ------------------------------------------------------------ layers that are left out


@pytest.mark.parametrize("stock", [False, True])
@every_update
def test_layers_kept_are_the_checkpoints(update, stock):
    """`--encoder-layers-to-keep`; of a `transformer` some layers then lacked their controllers."""
    layers = dict(encoder_layers=4, decoder_layers=4)
    whole = build("transformer", **layers) if stock else ours(update, **layers)
    kept = dict(encoder_layers_to_keep="1,3", decoder_layers_to_keep="0,2")
    part = ours(update, seed=2, **kept)
    cfg = Namespace(arch="mem_transformer", **kept)
    part.load_state_dict(copy.deepcopy(whole.state_dict()), model_cfg=cfg)
    expected = ours(update, seed=3, **layers)
    expected.load_state_dict(copy.deepcopy(whole.state_dict()))
    for side in ("encoder", "decoder"):  # where the checkpoint has none it is freshly initialised
        getattr(expected, side).memory.load_state_dict(getattr(part, side).memory.state_dict())
    for side, numbers in (("encoder", (1, 3)), ("decoder", (0, 2))):
        stack = getattr(expected, side)
        stack.layers = nn.ModuleList([stack.layers[number] for number in numbers])
        stack.num_layers = 2
    torch.testing.assert_close(teacher_forced(part), teacher_forced(expected), **EXACT)


@pytest.mark.parametrize("side, other", [("encoder", "decoder"), ("decoder", "encoder")])
def test_where_layers_of_one_side_are_kept_the_other_keeps_all_of_its_own(side, other):
    layers = {f"{side}_layers": 4, f"{other}_layers": 3}
    part = ours(**layers, **{f"{side}_layers_to_keep": "1,3"})
    assert len(getattr(part, side).layers) == 2 and len(getattr(part, other).layers) == 3


def test_pruning_a_checkpoint_renames_controllers_with_their_layers():
    state = ours("ctrl", encoder_layers=4).state_dict()
    cfg = Namespace(arch="mem_transformer", encoder_layers_to_keep="1,3")
    cfg.decoder_layers_to_keep = "0,1"
    pruned = prune_state_dict(dict(state), cfg)
    for new, old in ((0, 1), (1, 3)):
        name = "encoder.layers.{}.controller.fc1.weight"
        assert torch.equal(pruned[name.format(new)], state[name.format(old)])


# ------------------------------------------------------------ averages over training


def averaging(model, **options):
    settings = dict(
        ema_decay=0.5, ema_seed_model=None, ema_fp32=False, ema_start_update=0, ema_update_freq=1
    )
    return EMA(model, SimpleNamespace(**{**settings, **options}))


LM = dict(decoder_input_dim=16, decoder_output_dim=16, tokens_per_sample=20)
AVERAGED = {
    "translation": lambda **o: ours(**o),
    "controllers": lambda **o: ours("ctrl", **o),
    "without memory": lambda **o: build("mem_transformer", memory_tokens=0, **o),
    "positions": lambda **o: ours(memory_positions=True, **o),
    "language model": lambda **o: build(
        "mem_transformer_lm", memory_tokens=3, memory_positions=True, **LM, **o
    ),
    "adaptive": lambda **o: build(
        "mem_transformer_lm", memory_tokens=3, adaptive_softmax_cutoff="8,16", **LM, **o
    ),
    "Transformer-XL": lambda **o: build("mem_transformer_xl", memory_tokens=3, **o),
    "Transformer-XL, adaptive": lambda **o: build(
        "mem_transformer_xl", memory_tokens=3, adaptive_softmax_cutoff="8,16", **o
    ),
}  # fmt: skip


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("make", AVERAGED.values(), ids=AVERAGED.keys())
def test_the_average_over_training(make, pre_norm, fp32):
    """`--store-ema`: every weight is averaged, and the average is a model like any other."""
    norms = dict(encoder_normalize_before=pre_norm, decoder_normalize_before=pre_norm)
    model = make(double=False, **norms)
    if not fp32:
        model.double()
    average = averaging(model, ema_fp32=fp32)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    places = Counter(tensor.data_ptr() for tensor in model.state_dict().values())
    for _ in range(3):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(torch.randn_like(parameter))
                # fairseq takes the step once for every place in which a shared weight stands
                for _ in range(places[parameter.data_ptr()]):
                    expected[name] = (expected[name] + parameter) / 2
        average.step(model)
    averaged = average.get_model()
    found = dict(averaged.named_parameters())
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value)
    # what the trainer writes into a checkpoint loads like the model's own weights
    again = make(seed=5, double=False, **norms)
    again.load_state_dict(copy.deepcopy(averaged.state_dict()), strict=True)
    for side in ("encoder", "decoder"):
        memory = getattr(getattr(model, side, None), "memory", None)
        if memory is not None:
            read = getattr(again, side).memory.text_offset
            assert read == getattr(averaged, side).memory.text_offset == memory.text_offset


# ------------------------------------------------------------ the number of position codes


@pytest.mark.parametrize("written", [torch.tensor(3), torch.tensor(3.0), torch.tensor(2.9999998)])
def test_the_number_of_position_codes_survives_every_checkpoint(written):
    """An older one holds it as a whole number, an average over training to rounding."""
    whole = ours(memory_positions=True)
    state = copy.deepcopy(whole.state_dict())
    assert state["encoder.memory.position_offset"].item() == 3
    state["encoder.memory.position_offset"] = written
    part = ours(memory_positions=True, memory_tokens=1, seed=2)
    part.load_state_dict(copy.deepcopy(state))
    assert part.encoder.memory.text_offset == 3
    again = ours(memory_positions=True, memory_tokens=1, seed=3)
    again.load_state_dict(copy.deepcopy(part.state_dict()))
    assert again.encoder.memory.text_offset == 3
    torch.testing.assert_close(teacher_forced(again), teacher_forced(part), **EXACT)
    grown = ours(memory_positions=True, memory_tokens=5, memory_grow=True)
    grown.load_state_dict(state)
    assert grown.encoder.memory.text_offset == 5


def test_the_number_of_position_codes_is_no_tensor():
    """Whoever reads a number off a GPU waits for it."""
    model = ours(memory_positions=True)
    assert "position_offset" not in " ".join(name for name, _ in model.named_buffers())
    assert type(model.encoder.memory.text_offset) is int


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_side_of_a_checkpoint_loads_as_fairseqs_does(side, tmp_path):
    """How fairseq's pre-training tasks load an encoder or a decoder."""
    trained, fresh = ours(memory_positions=True), ours(memory_positions=True, seed=2)
    torch.save({"model": trained.state_dict(), "args": None, "cfg": None}, tmp_path / "model.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fairseq.checkpoint_utils.load_checkpoint_to_cpu",
            lambda path: torch.load(path, weights_only=True),
        )
        load_pretrained_component_from_model(getattr(fresh, side), str(tmp_path / "model.pt"))
    loaded, saved = (getattr(model, side).state_dict() for model in (fresh, trained))
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


# ------------------------------------------------------------ looking for NaN


@every_update
def test_the_detector_finds_where_nan_begins(update, caplog):
    """fairseq runs the batch again when a loss is NaN, and names the first module that gave one."""
    names = ["encoder.layers.1.fc1", "decoder.layers.0.encoder_attn.v_proj"]
    if update in ("ctrl", "bottleneck"):
        names.append("encoder.layers.0.controller.self_attn.k_proj")
    for name in names:
        model = ours(update)
        model.get_submodule(name).weight.data.fill_(float("nan"))
        caplog.clear()
        with caplog.at_level(logging.WARNING), NanDetector(model, backward=False):
            teacher_forced(model)
        assert f"NaN detected in output of {name}," in caplog.text
