"""Memory along a document, one sentence, one layer, one slot and one channel at a time."""

import math

import torch
from torch import Tensor

from helpers.references.layers import shared_update


def gated(carry, before: Tensor, written: Tensor) -> Tensor:
    """The gate's equation for m x C each, written out; without a gate what was written."""
    if carry is None:
        return written
    weight, bias = carry.gate.weight, carry.gate.bias
    made = torch.zeros_like(written)
    for slot in range(written.size(0)):
        for channel in range(written.size(1)):
            total = float(bias[channel])
            for number, value in enumerate([*before[slot], *written[slot]]):
                total += float(weight[channel, number]) * float(value)
            gate = 1 / (1 + math.exp(-total))
            made[slot, channel] = gate * before[slot, channel]
            made[slot, channel] += (1 - gate) * written[slot, channel]
    return made


def encode_document(encoder, document: list[Tensor]) -> list[Tensor]:
    """What the encoder (update ``shared``) gives for each sentence (T words): (m+T) x C."""
    memory, outputs = encoder.memory.weight, []
    codes = torch.zeros_like(memory)
    if encoder.memory.takes_positions:  # the first ones, whatever the words are
        codes = encoder.embed_positions(document[0].new_full((1, len(memory)), 4))[0]
    for words in document:
        text = encoder.forward_embedding(words[None])[0][0]
        x = torch.cat([memory + codes, text])[:, None]
        for layer in encoder.layers:
            x = shared_update(layer, x, torch.zeros(1, len(x), dtype=torch.bool))
        if encoder.layer_norm is not None:
            x = encoder.layer_norm(x)
        outputs.append(x[:, 0])
        memory = gated(encoder.carry, memory, x[: len(memory), 0])
    return outputs
