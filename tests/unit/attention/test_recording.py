"""Recorded attention is what the model computes with, by the slow reference too."""

import pytest
import torch
from helpers.random_models import build, sentences, shifted
from helpers.references.attention import attend

from fairseq_mem.attention.recording import recording
from fairseq_mem.streaming.state import StreamState

EXACT = dict(rtol=0, atol=1e-6)  # fairseq's own path computes its softmax in float32
SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = shifted(sentences([5, 7, 2], seed=2))
TRANSLATION = {
    "fairseq": dict(arch="transformer"),
    "encoder": dict(memory_tokens=3),
    "decoder": dict(memory_tokens=0, memory_decoder_tokens=2),
    "both": dict(memory_tokens=3, memory_decoder_tokens=2),
    "ctrl": dict(memory_tokens=3, memory_update="ctrl"),
    "ctrl-shared": dict(memory_tokens=3, memory_update="ctrl-shared"),
    "bottleneck": dict(memory_tokens=3, memory_update="bottleneck"),
}


@pytest.mark.parametrize("options", TRANSLATION.values(), ids=TRANSLATION)
def test_recording_changes_nothing_and_rows_sum_to_one(options):
    model = build(**options)
    expected = model(SOURCE, None, TARGET)
    with recording(model) as maps:
        logits, extra = model(SOURCE, None, TARGET)
    torch.testing.assert_close(logits, expected[0], **EXACT)
    torch.testing.assert_close(extra["attn"][0], expected[1]["attn"][0], **EXACT)
    names = [
        name for name, _ in model.named_modules() if name.endswith(("self_attn", "encoder_attn"))
    ]
    assert {name for name, found in maps.items() if found} == set(names)
    for found in maps.values():
        for weights in found:
            torch.testing.assert_close(
                weights.sum(dim=3).double(), torch.ones(weights.shape[:3]).double(), **EXACT
            )
    assert not any(module._forward_hooks for module in model.modules())
    model(SOURCE, None, TARGET)
    assert all(len(found) == len(maps[name]) for name, found in maps.items())


def test_the_maps_are_those_of_the_loops():
    model = build(**TRANSLATION["both"])
    inputs = {}
    layers = {name: dict(model.named_modules())[name] for name in (
        "encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.1.encoder_attn",
    )}  # fmt: skip
    for name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: inputs.update(
                {name: (kwargs["query"], kwargs["key"])}
            ),
            with_kwargs=True,
        )
    with recording(model) as maps:
        model(SOURCE, None, TARGET)
    pad, m, own = SOURCE.eq(1), 3, 2
    rules = {
        "encoder.layers.0.self_attn": lambda b, t, s: s < m or not pad[b, s - m],
        "decoder.layers.0.self_attn": lambda b, t, s: (
            s <= t and (s < own or not TARGET[b, s - own].eq(1))
        ),
        "decoder.layers.1.encoder_attn": lambda b, t, s: s < m or not pad[b, s - m],
    }
    for name, layer in layers.items():
        expected = attend(layer, *inputs[name], rules[name])[1]
        (found,) = maps[name]
        torch.testing.assert_close(found, expected, **EXACT)
        assert torch.equal(found == 0, expected == 0)


def test_step_by_step_in_beam_search_order():
    model = build(**TRANSLATION["both"])
    encoder_out, state = model.encoder(SOURCE), {}
    with recording(model) as maps:
        for step in range(1, 4):
            model.decoder(TARGET[:, :step], encoder_out=encoder_out, incremental_state=state)
    shapes = [tuple(found.shape[2:]) for found in maps["decoder.layers.0.self_attn"]]
    assert shapes == [(3, 3), (1, 4), (1, 5)]


@pytest.mark.parametrize("recurrence", [0, 2])
@pytest.mark.parametrize("lesion", ["none", "no-read", "zero-read"])
def test_transformer_xl(recurrence, lesion):
    model = build(
        "mem_transformer_xl_small", memory_tokens=2, memory_recurrence=recurrence,
        memory_lesion=lesion, tokens_per_sample=4, cache_length=4, decoder_layers=2,
    )  # fmt: skip
    first, second = TARGET[:, :4].clamp(min=4), TARGET[:, :4].flip(0).clamp(min=4)

    def read():
        state = model.decoder.read_segment(first, StreamState())[1]
        return model.decoder.read_segment(second, state)[0]

    expected = read()
    with recording(model) as maps:
        torch.testing.assert_close(read(), expected, rtol=0, atol=1e-10)
    written = 2 if recurrence else 0
    for number in range(2):
        one, two = maps[f"decoder.layers.{number}.self_attn"]
        reading = 0 if number == 1 else 2  # nobody reads what they become in the last layer
        assert one.shape[2:] == (reading + 4 + written, 2 + 4 + written)
        assert two.shape[2:] == (reading + 4 + written, 2 + 8 + written)
        text = two[:, :, reading : reading + 4]
        sums, later = text.sum(dim=3), text[..., 6:10].triu(1)
        assert (later == 0).all() and (text[..., 10:] == 0).all()
        assert (text[..., :2] == 0).all() == (lesion != "none")
        if lesion != "zero-read":
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-10)
