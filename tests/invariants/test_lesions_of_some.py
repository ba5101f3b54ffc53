"""A lesion of some slots, in some layers: the loops, beam search, refusals."""

import pytest
import torch
from helpers.random_models import EXACT, build, logits, sentences, shifted
from helpers.references.attention import attend

from fairseq_mem import UserError
from fairseq_mem.attention.fused import FusedAttention
from fairseq_mem.attention.recording import recording
from fairseq_mem.streaming.state import StreamState

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
LESIONS = pytest.mark.parametrize("lesion", ["no-read", "zero-read"])


@LESIONS
@pytest.mark.parametrize("need_weights", [False, True])
def test_of_one_slot_it_equals_the_loops(lesion, need_weights):
    torch.manual_seed(3)
    made = FusedAttention(12, 3, self_attention=True).double().eval()
    made.lesion, made.lesioned_keys, made.memory_queries, made.lesioned_slots = lesion, 3, 3, [1]
    x = torch.randn(6, 2, 12, dtype=torch.double)
    out, _ = made(x, x, x, need_weights=need_weights)

    def meets(b, t, s):
        return t >= 3 and s == 1

    rule = (lambda *place: True, meets)
    if lesion == "no-read":
        rule = (lambda *place: not meets(*place), None)
    torch.testing.assert_close(out, attend(made, x, x, *rule)[0], **EXACT)


@LESIONS
def test_all_slots_by_number_are_all(lesion):
    options = dict(memory_tokens=3, memory_lesion=lesion, memory_lesion_scope="all")
    whole, named = build(**options), build(**options, memory_lesion_slots="0,1,2")
    one = build(**options, memory_lesion_slots="1")
    results = [logits(model, SOURCE, shifted(TARGET)) for model in (whole, named, one)]
    torch.testing.assert_close(results[0], results[1], **EXACT)
    assert (results[0] - results[2]).abs().max() > 1e-6


@LESIONS
def test_the_other_layers_are_spared(lesion):
    where = dict(memory_lesion_scope="all", memory_lesion_slots="1", memory_lesion_layers="1")
    model = build(memory_tokens=2, memory_decoder_tokens=2, memory_lesion=lesion, **where)
    with recording(model) as maps:
        logits(model, SOURCE, shifted(TARGET))
    for name, (weights,) in maps.items():
        text = weights[:, :, 2:]
        assert (text[..., 1] == 0).all() == (".layers.1." in name), name
        assert (text[..., 0] > 0).all() and (weights[:, :, 1, 1] > 0).all()


@LESIONS
@torch.no_grad()
def test_steps_of_a_beam_equal_the_whole(lesion):
    model = build(memory_tokens=2, memory_decoder_tokens=3, memory_lesion=lesion,
                  memory_lesion_scope="all", memory_lesion_slots="1")  # fmt: skip
    model.set_beam_size(2)
    rows = torch.arange(3).repeat_interleave(2)
    target = shifted(sentences([6] * 6, seed=3))
    encoder_out = model.encoder.reorder_encoder_out(model.encoder(SOURCE), rows)
    expected = logits(model, SOURCE[rows], target)
    state = {}
    for step in range(1, 7):
        found = model.decoder(target[:, :step], encoder_out, incremental_state=state)[0]
        torch.testing.assert_close(found[:, -1], expected[:, step - 1], **EXACT)


@LESIONS
@pytest.mark.parametrize("slots", ["0,1", "1", None])
def test_transformer_xl(lesion, slots):
    options = dict(memory_tokens=2, memory_recurrence=2, tokens_per_sample=4, cache_length=4,
                   decoder_layers=2, memory_lesion=lesion)  # fmt: skip
    model = build("mem_transformer_xl_small", **options, memory_lesion_slots=slots,
                  memory_lesion_layers="0")  # fmt: skip
    words = TARGET[:, :4].clamp(min=4)
    expected = model.decoder.read_segment(words, StreamState())[0]
    with recording(model) as maps:
        found = model.decoder.read_segment(words, StreamState())[0]
    torch.testing.assert_close(found, expected, **EXACT)
    text = maps["decoder.layers.0.self_attn"][0][:, :, 2:6]
    assert (text[..., 1] == 0).all() and (text[..., 0] == 0).all() == (slots != "1")
    assert (maps["decoder.layers.1.self_attn"][0][:, :, :4, :2] > 0).all()
    if lesion == "no-read":
        torch.testing.assert_close(text.sum(3), torch.ones_like(text.sum(3)), **EXACT)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(memory_lesion_slots="0"), "and there is no lesion; give memory_lesion too"),
        (dict(memory_lesion="no-read", memory_lesion_slots="3"), "'3', and the model has 3"),
        (dict(memory_lesion="no-read", memory_lesion_layers="0,2"), "'0,2', and the model has 2"),
        (dict(memory_lesion="no-read", memory_lesion_slots=[1]), "give numbers from 0 in quota"),
        (dict(memory_lesion="no-read", memory_lesion_layers="1;2"), "give numbers from 0 in quo"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        build(memory_tokens=3, **options)
