"""Slots that attend alike are found, and slots of two models that correspond."""

import numpy as np
import pytest

from fairseq_mem.tools.insight.single_lesions import interval
from fairseq_mem.tools.insight.slots import Profile, clusters, correlations, correspondence


def profiles(count, seed, noise=0.05):
    """Of a model and of another whose slots are the same in another order."""
    chance = np.random.default_rng(seed)
    attends, read = chance.random((count, 40)), chance.random((count, 6))
    order = chance.permutation(count)

    def noisy(values):
        return values + noise * chance.standard_normal(values.shape)

    one = Profile(attends, attends, read)
    two = Profile(noisy(attends)[order], noisy(attends)[order], noisy(read)[order])
    return one, two, order


def test_slots_that_correspond_are_matched():
    one, two, order = profiles(8, seed=1)
    found = correspondence(one, two)
    assert [order[pair] for pair in found.pairs] == list(range(8))
    assert found.matched > 0.9 and found.held_out > 0.9 and found.chance < 0.01


def test_those_that_attend_alike_and_are_read_by_others_do_not():
    one, two, _ = profiles(8, seed=2)
    strange = two._replace(read=np.random.default_rng(5).random((8, 6)))
    assert correspondence(one, strange).chance > 0.05


def test_clusters_are_numbered_by_their_first_slots():
    kinds = np.random.default_rng(3).random((2, 30))
    noise = 0.01 * np.random.default_rng(4).standard_normal((5, 30))
    assert clusters(kinds[[1, 0, 0, 1, 1]] + noise) == [0, 1, 1, 0, 0]
    assert clusters(kinds[:1]) == [0]


def test_slots_that_are_all_the_same_correlate_with_nothing():
    assert (correlations(np.ones((3, 4)), np.ones((3, 4))) == 0).all()


def test_the_interval_is_of_the_mean_difference():
    chance = np.random.default_rng(0)
    whole = chance.random(400) * 20
    tokens = chance.integers(5, 20, 400)
    lesioned = whole + tokens * np.log(2) * (0.1 + 0.02 * chance.standard_normal(400))
    difference, low, high = interval(whole, lesioned, tokens)
    assert low < 0.1 < high and difference == pytest.approx(0.1, abs=0.01)
    assert high - low == pytest.approx(4 * 0.02 / np.sqrt(400), rel=0.4)
