"""A language model with memory: one text, position by position."""

import math

import torch
from torch import Tensor

from helpers.references.attention import attend
from helpers.references.layers import feed_forward


def log_probabilities(
    decoder, words: list[int], positions: bool = False, lesion: str = "none"
) -> Tensor:
    """Of every next word after ``words`` (T of them): T x V.

    Args:
        decoder: with memory, fairseq's sinusoidal codes and no final projection but the last.
        positions: memory takes the first position codes, the text those behind them.
        lesion: of a word's attention to memory.
    """
    memory = decoder.memory.weight
    m = memory.size(0)
    codes = decoder.embed_positions.weights.double()[decoder.padding_idx + 1 :]
    rows = [memory[slot] + codes[slot] if positions else memory[slot] for slot in range(m)]
    for place, word in enumerate(words):
        embedded = decoder.embed_tokens(torch.tensor([word]))[0] * math.sqrt(memory.size(1))
        rows.append(embedded + codes[place + m if positions else place])
    x = torch.stack(rows)[:, None]  # (m+T) x 1 x C

    def may_attend(_: int, t: int, s: int) -> bool:
        return s <= t and not (lesion == "no-read" and t >= m > s)

    def drop(_: int, t: int, s: int) -> bool:
        return lesion == "zero-read" and t >= m > s

    for layer in decoder.layers:
        first, last = layer.self_attn_layer_norm, layer.final_layer_norm
        if layer.normalize_before:
            normed = first(x)
            x = x + attend(layer.self_attn, normed, normed, may_attend, drop)[0]
            x = x + feed_forward(layer, last(x))
        else:
            x = first(x + attend(layer.self_attn, x, x, may_attend, drop)[0])
            x = last(x + feed_forward(layer, x))
    if decoder.layer_norm is not None:
        x = decoder.layer_norm(x)
    return decoder.output_projection(x[m:, 0]).log_softmax(dim=-1)
