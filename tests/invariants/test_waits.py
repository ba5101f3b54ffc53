"""No architecture makes the host wait for a GPU more often than fairseq's own does, anywhere."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from helpers.random_models import build, dictionary
from helpers.waiting import Waits

from fairseq_mem.streaming.remembered import read_in_front

BATCH, LENGTH, BEAM, LAYERS = 4, 6, 3, 2
CODES = dict(memory_positions=True)
KINDS = ("mem_transformer", "mem_transformer_lm")
ARCHITECTURES = [name for name, model in ARCH_MODEL_NAME_REGISTRY.items() if model in KINDS]
OURS = [(name, {}) for name in ARCHITECTURES] + [(name, CODES) for name in KINDS]
STREAMING = [name for name in ARCH_MODEL_NAME_REGISTRY if name.startswith("mem_transformer_xl")]
SENTENCE_ENCODERS = [
    name for name, model in ARCH_MODEL_NAME_REGISTRY.items() if model == "mem_roberta"
]


def on_meta(arch, **options):
    """A small model on the device without data; the presets' softmax is one plain matrix here."""
    if arch in STREAMING:
        options = dict(cache_length=5, memory_tokens=2, memory_recurrence=2, **options)
    elif ARCH_MODEL_NAME_REGISTRY[arch] == "mem_transformer":
        options = dict(memory_tokens=3, memory_decoder_tokens=2, **options)
    elif arch.startswith("mem_"):
        options = {"memory_tokens": 3, **options}
    if arch.endswith(("lm", "_wiki103", "_gpt2_small")):
        options |= dict(
            decoder_input_dim=16, decoder_output_dim=16, adaptive_softmax_cutoff=None,
            adaptive_input=False, tie_adaptive_weights=False, tie_adaptive_proj=False,
            share_decoder_input_output_embed=True, max_target_positions=64, tokens_per_sample=64,
        )  # fmt: skip
    model = build(
        arch, double=False, encoder_layers=LAYERS, decoder_layers=LAYERS, dropout=0.1, **options
    )
    return model.to("meta")


def words(rows=BATCH):
    return torch.randint(4, len(dictionary()), (rows, LENGTH), device="meta")


def stock_of(arch):
    """fairseq's own model of the kind; ours without memory is fairseq's language model."""
    if ARCH_MODEL_NAME_REGISTRY[arch] == "mem_transformer":
        return ("transformer", ())
    return ("mem_transformer_lm", (("memory_tokens", 0),))


def given(model):
    """The input of one batch; a language model has no target's words of its own."""
    if not hasattr(model, "encoder"):
        return dict(src_tokens=words())
    return dict(src_tokens=words(), src_lengths=None, prev_output_tokens=words())


@cache
def fairseqs(count, kind, *args):
    """What fairseq's own model needs."""
    arch, options = kind
    return count(arch, *args, **dict(options))


def build_criterion(name):
    task = SimpleNamespace(target_dictionary=dictionary())
    return CRITERION_REGISTRY[name](task, sentence_avg=False, label_smoothing=0.1)


def waits_of_a_batch(arch, training, answer, criterion="label_smoothed_cross_entropy", **options):
    model = on_meta(arch, **options).train(training)
    made = build_criterion(criterion)
    sample = {"net_input": given(model), "target": words(), "ntokens": BATCH * LENGTH}
    if arch in STREAMING:
        sample["net_input"].update(segment=LENGTH // 2, position=0)
    with Waits(answer) as waits, torch.set_grad_enabled(training):
        loss = made(model, sample)[0]
        if training:
            loss.backward()
    assert waits.mixed == []
    return waits.number


# the answer: whether there is padding
@pytest.mark.parametrize(("training", "answer"), [(True, True), (False, False)])
def test_a_batch(training, answer, subtests):
    criterion = "label_smoothed_cross_entropy_fused"
    for arch, more in [*OURS, *((name, {}) for name in STREAMING)]:
        with subtests.test(arch=arch, **more):
            ours = waits_of_a_batch(arch, training, answer, criterion, **more)
            assert ours <= fairseqs(waits_of_a_batch, stock_of(arch), training, answer)
            assert ours <= 2


@pytest.mark.parametrize("carry", ["gate", "plain"])
@pytest.mark.parametrize("before", [False, True])
def test_windows_of_documents(carry, before):
    """Memory that is handed on makes nobody wait, however many sentences a window has."""
    options = dict(memory_recurrence=2, memory_carry=carry)
    model = on_meta("mem_ctrl_transformer", **options).train()
    criterion = build_criterion("label_smoothed_cross_entropy_fused")
    sample = {"net_input": {**given(model), "steps": (2, 1, 1)}, "target": words(), "ntokens": 9}
    stock = fairseqs(waits_of_a_batch, stock_of("mem_transformer"), True, True)
    with Waits(answer=True) as waits:
        if before:  # two windows, the second of which has a sentence more in front of it
            rows = [torch.arange(n, device="meta") for n in (2, 1)]
            read = [(row, words(len(row))) for row in rows]
            sample["net_input"]["memory"] = {model.encoder: read_in_front(model.encoder, 2, read)}
        criterion(model, sample)[0].backward()
    assert waits.mixed == []
    # one for every batch that is read in front: whether it has padding
    assert waits.number <= 2 + 2 * before <= stock + 2 * before


def waits_of_an_encoder(arch, training, answer, tokens=3):
    sizes = dict(encoder_layers=LAYERS, encoder_attention_heads=2, max_positions=64)
    model = build(arch, double=False, memory_tokens=tokens, **sizes).to("meta").train(training)
    with Waits(answer) as waits, torch.set_grad_enabled(training):
        features = model(src_tokens=words(), features_only=False)[0]
        if training:
            features.float().sum().backward()
    assert waits.mixed == []
    return waits.number


@pytest.mark.parametrize(("training", "answer"), [(True, True), (False, False)])
def test_a_sentence_encoder(training, answer, subtests):
    theirs = waits_of_an_encoder("mem_roberta", training, answer, tokens=0)
    for arch in SENTENCE_ENCODERS:
        with subtests.test(arch=arch):
            assert waits_of_an_encoder(arch, training, answer) <= min(theirs, 2)


def waits_of_a_search(arch, **options):
    """Of each of: the encoder and its beams, five steps, one in which sentences are dropped."""
    model = on_meta(arch, **options).eval()
    if hasattr(model, "set_beam_size"):
        model.set_beam_size(BEAM)
    state, counts, encoder_out = {}, [], None
    rows = BATCH
    if hasattr(model, "encoder"):
        rows = BATCH * BEAM
        with Waits() as waits:
            encoder_out = model.encoder(words(), src_lengths=None)
            order = torch.arange(BATCH, device="meta").repeat_interleave(BEAM)
            encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        counts.append(waits.number)
        assert waits.mixed == []
    for step in range(1, 7):
        tokens = torch.randint(4, 10, (rows, step), device="meta")
        with Waits(answer=False) as waits:
            if encoder_out is None:
                model.decoder(tokens, incremental_state=state)
            else:
                model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)
            rows -= BEAM if step == 4 else 0  # a sentence is finished
            order = torch.zeros(rows, dtype=torch.long, device="meta")
            model.decoder.reorder_incremental_state_scripting(state, order)
            if encoder_out is not None:
                encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        counts.append(waits.number)
        assert waits.mixed == []
    return counts


def test_a_search(subtests):
    for arch, more in OURS:
        with subtests.test(arch=arch, **more):
            ours, theirs = (
                waits_of_a_search(arch, **more),
                fairseqs(waits_of_a_search, stock_of(arch)),
            )
            assert all(one <= other for one, other in zip(ours, theirs, strict=True))
            assert max(ours) <= 1


def test_waits_are_seen():
    x = torch.empty(3, 2, device="meta")
    with Waits() as waits:
        bool(x.any()), torch.equal(x, x), x.nonzero(), x.cpu(), x[x > 0], x.sum().item()
        x[torch.zeros(3, dtype=torch.long, device="meta")] = x > 0  # this is no mask
    assert waits.number == 6
    with Waits() as waits:
        torch.nn.functional.embedding(torch.tensor([[1, 2]]), x)
    assert len(waits.mixed) == 1
