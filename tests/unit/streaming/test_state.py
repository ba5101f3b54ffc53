"""What a recurrent model keeps of the rows it reads: cache, memory, and when it begins afresh."""

import logging

import pytest
import torch
from helpers.random_models import EXACT
from helpers.recurrent_models import build, features, words

from fairseq_mem import UserError


def test_validation_leaves_the_state_of_training_alone():
    model = build(memory_tokens=2, memory_recurrence=2)
    tokens = words(2, 24)
    model.train()
    features(model, tokens[:, :8], segment=4, position=0)
    undisturbed = features(model, tokens[:, 8:16], segment=4, position=8)
    features(model, tokens[:, :8], segment=4, position=0)
    model.eval()
    features(model, words(3, 8, seed=1), segment=2, position=0)
    model.train()
    torch.testing.assert_close(
        features(model, tokens[:, 8:16], segment=4, position=8), undisturbed, **EXACT
    )


def test_position_0_begins_afresh(caplog):
    model = build(memory_tokens=2, memory_recurrence=2)
    tokens = words(2, 8)
    with caplog.at_level(logging.WARNING):
        first = features(model, tokens, segment=4, position=0)
        model(words(2, 8, seed=5), segment=4, position=8)
        again = features(model, tokens, segment=4, position=0)
        assert not caplog.messages
        torch.testing.assert_close(again, first, **EXACT)
        # a place that nobody has read up to: empty, and one line
        torch.testing.assert_close(features(model, tokens, segment=4, position=800), first, **EXACT)
        assert len(caplog.messages) == 1 and "800 words" in caplog.messages[0]


def test_a_state_of_another_cache_length_and_without_recurrence():
    """As when training resumes with other options: what does not fit is left behind."""
    tokens = words(2, 8)
    longer = build(memory_tokens=2, memory_recurrence=2, cache_length=5)
    features(longer, tokens, segment=4, position=0)
    for length in (0, 3):
        shorter = build(memory_tokens=2, cache_length=length)
        shorter.load_state_dict(longer.state_dict())
        shorter.decoder.streams = longer.decoder.streams
        state = shorter.decoder._state(2, 8)
        assert state.memory is None
        assert [t.size(1) for t in state.cache] == [length] * (2 if length else 0)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_state_of_another_number_of_slots(slots):
    """As when training resumes with other --memory-tokens: the cache stays, memory begins anew."""
    other, model = (build(memory_tokens=n, memory_recurrence=2) for n in (2, slots))
    features(other, words(2, 8), segment=4, position=0)
    model.decoder.streams = other.decoder.streams
    features(model, words(2, 8), segment=4, position=8)
    state = model.decoder.streams[False]
    assert state.memory.shape == (2, slots, 16) and state.cache[0].shape[:2] == (2, 5)


def test_nothing_that_is_kept_has_a_gradient():
    model = build(memory_tokens=2, memory_recurrence=2).train()
    model(words(2, 8), segment=4, position=0)
    state = model.decoder.streams[True]
    assert len(state.tensors()) == 3
    assert not any(tensor.requires_grad for tensor in state.tensors())
    assert [t.shape for t in state.tensors()] == [(2, 5, 16), (2, 5, 16), (2, 2, 16)]


def test_saved_and_loaded_with_fewer_slots():
    model = build(memory_tokens=3)
    same, fewer, none = build(memory_tokens=3, seed=2), build(memory_tokens=2), build()
    tokens = words(2, 9)
    for other in (same, fewer, none):
        other.load_state_dict(model.state_dict())
    expected = features(model, tokens, segment=4)
    torch.testing.assert_close(features(same, tokens, segment=4), expected, rtol=0, atol=0)
    assert torch.equal(fewer.decoder.memory.weight, model.decoder.memory.weight[:2])
    assert none.decoder.memory is None
    with pytest.raises(UserError, match="has 2 memory tokens"):
        build(memory_tokens=3).load_state_dict(fewer.state_dict())


def test_memory_states_are_those_behind_each_segment():
    model = build(memory_tokens=3, memory_recurrence=2)
    states = model.memory_states(words(2, 8), segment=4)
    assert states.shape == (2, 2, 3, 16)
    model(words(2, 8), segment=4, position=0)
    torch.testing.assert_close(model.decoder.streams[False].memory, states[-1], **EXACT)
    with pytest.raises(UserError, match="writes no memory"):
        build(memory_tokens=3).memory_states(words(2, 8), segment=4)
