"""Memory slots compared: which attend alike in one model, and which correspond in two.

A slot's *profile* is what it attends to, head by head: shares by group of positions and by tenth
of the text. Profiles are compared as deviations from the mean slot of their model, since what all
slots share tells none from another.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .averages import LayerSums
from .views import CROSS, ENCODER

ALIKE = 0.5  # average correlation within a cluster
SHUFFLES = 10_000


class Profile(NamedTuple):
    """Of m slots.

    Attributes:
        attends: what each attends to, m x F: layers, heads, groups and tenths in a row.
        by_layer: the same, means over heads: m x F'.
        read: who reads each, means over heads: m x (layers of the encoder and the decoder).
    """

    attends: np.ndarray
    by_layer: np.ndarray
    read: np.ndarray


def profile(layers: dict[tuple[str, int], LayerSums]) -> Profile | None:
    """The profile of the encoder's slots; None if it has none."""
    attends, by_layer, read = [], [], []
    for (kind, _), sums in sorted(layers.items(), key=lambda item: item[0]):
        if sums.read is None or sums.slots is None or kind not in (ENCODER, CROSS):
            continue
        read.append((sums.read / sums.rows[1].clamp(min=1)).mean(dim=0)[:, None])
        if kind == ENCODER:
            rows = float(sums.rows[0]) / sums.slots.size(1)
            shares = (sums.slots / max(rows, 1.0)).transpose(0, 1)  # m x H x F
            attends.append(shares.flatten(1))
            by_layer.append(shares.mean(dim=1))
    if not attends:
        return None

    def joined(parts: list[Tensor]) -> np.ndarray:
        return torch.cat(parts, dim=1).numpy()

    return Profile(joined(attends), joined(by_layer), joined(read))


def correlations(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of the deviations of every row (m x F) with those of every row (n x F): m x n."""
    sides = []
    for side in (one, two):
        side = side - side.mean(axis=0)
        side = side - side.mean(axis=1, keepdims=True)
        length = np.linalg.norm(side, axis=1, keepdims=True)
        sides.append(np.divide(side, length, out=np.zeros_like(side), where=length > 0))
    return sides[0] @ sides[1].T


def clusters(attends: np.ndarray) -> list[int]:
    """The cluster of every slot, numbered from 0 in the order of their first slots.

    Average linkage; clusters are joined as long as their slots correlate by ``ALIKE`` on average.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    count = len(attends)
    if count < 2:
        return [0] * count
    distances = 1.0 - correlations(attends, attends)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(np.clip(distances, 0.0, 2.0), checks=False), method="average")
    found = fcluster(tree, t=1.0 - ALIKE, criterion="distance").tolist()
    order = {number: place for place, number in enumerate(dict.fromkeys(found))}
    return [order[number] for number in found]


class Correspondence(NamedTuple):
    """Whether the slots of two models correspond.

    Attributes:
        pairs: for each slot of the first the second's, by what they attend to.
        matched: their mean correlation in what they attend to, which matching has made high.
        held_out: their correlation in who reads them, which it has not looked at.
        chance: the share of random pairings whose ``held_out`` is as high.
    """

    pairs: list[int]
    matched: float
    held_out: float
    chance: float


def correspondence(one: Profile, two: Profile, seed: int = 1) -> Correspondence:
    """Match the slots of two models by what they attend to, and test it by who reads them.

    Heads of two seeds don't correspond, so that both are means over the heads of a layer.

    Args:
        one, two: profiles of as many slots.
        seed: of the random pairings.
    """
    from scipy.optimize import linear_sum_assignment

    alike = correlations(one.by_layer, two.by_layer)
    _, pairs = linear_sum_assignment(-alike)
    deviations = [side.read - side.read.mean(axis=0) for side in (one, two)]

    def agreement(order: np.ndarray) -> float:
        first, second = deviations[0].ravel(), deviations[1][order].ravel()
        length = np.linalg.norm(first) * np.linalg.norm(second)
        return float(first @ second / length) if length > 0 else 0.0

    held_out = agreement(pairs)
    chance = np.random.default_rng(seed)
    as_high = sum(
        agreement(chance.permutation(len(pairs))) >= held_out - 1e-12 for _ in range(SHUFFLES)
    )
    matched = float(alike[np.arange(len(pairs)), pairs].mean())
    return Correspondence(pairs.tolist(), matched, held_out, (as_high + 1) / (SHUFFLES + 1))
