"""Multi-head attention written as loops over sentences, heads and positions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MayAttend = Callable[[int, int, int], bool]


def attend(
    attention, query: Tensor, key: Tensor, may_attend: MayAttend, drop: MayAttend | None = None
):
    """Attend with the parameters of one of fairseq's attention modules.

    Args:
        query: T x B x C.
        key: S x B x C, also the values.
        may_attend: of (sentence, query position, key position).
        drop: of the same; True where the probability is set to zero *after* the softmax.

    Returns:
        The output (T x B x C) and the weights (H x B x T x S).
    """
    length, batch, channels = query.shape
    heads, size = attention.num_heads, channels // attention.num_heads
    out = torch.zeros(length, batch, channels, dtype=query.dtype)
    weights = torch.zeros(heads, batch, length, key.size(0), dtype=query.dtype)
    for b in range(batch):
        for t in range(length):
            q = attention.q_proj(query[t, b])
            mixed = torch.zeros(channels, dtype=query.dtype)
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                allowed = [s for s in range(key.size(0)) if may_attend(b, t, s)]
                exponents = {
                    s: math.exp(
                        float(q[part] @ attention.k_proj(key[s, b])[part]) / math.sqrt(size)
                    )
                    for s in allowed
                }
                total = sum(exponents.values())
                for s in allowed:
                    if drop is not None and drop(b, t, s):
                        continue
                    weights[h, b, t, s] = exponents[s] / total
                    mixed[part] += weights[h, b, t, s] * attention.v_proj(key[s, b])[part]
            out[t, b] = attention.out_proj(mixed)
    return out, weights
