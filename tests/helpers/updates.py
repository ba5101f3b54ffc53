"""Small models of every way of updating memory."""

import copy

import pytest
import torch

from fairseq_mem.updates import UPDATES
from helpers.random_models import (
    build,
    sentences,
)

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
M = 3
every_update = pytest.mark.parametrize("update", sorted(UPDATES))


def make(update, tokens=M, **options):
    return build(memory_update=update, memory_tokens=tokens, **options)


def controllers(encoder):
    """The controller of each layer."""
    return [encoder.controller or getattr(layer, "controller", None) for layer in encoder.layers]


def encoder_input(encoder, source=SOURCE):
    """What the first layer sees, (m+T) x B x C, and the padding mask."""
    padding = source.eq(encoder.padding_idx)
    text = encoder.forward_embedding(source)[0].masked_fill(padding[..., None], 0).transpose(0, 1)
    m = encoder.memory.tokens
    memory = [encoder.memory.weight[:, None].expand(-1, source.size(0), -1)] if m else []
    no_padding = torch.zeros(source.size(0), m, dtype=torch.bool)
    return torch.cat([*memory, text]), torch.cat([no_padding, padding], dim=1)


# 8. Warm starts


def states(model):
    return copy.deepcopy(model.state_dict())
