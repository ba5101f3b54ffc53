"""A sink and static keys and values, written as loops: see references/attention.py."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MayAttend = Callable[[int, int, int], bool]


@torch.no_grad()
def attend(attention, query: Tensor, key: Tensor, may_attend: MayAttend) -> tuple[Tensor, Tensor]:
    """Attend with the parameters of one of our attention modules, its controls included.

    Args:
        query: T x B x C.
        key: S x B x C, also the values.
        may_attend: of (sentence, query position, key position).

    Returns:
        The output (T x B x C) and the weights (H x B x T x (S+N)).
    """
    length, batch, channels = query.shape
    heads, size = attention.num_heads, channels // attention.num_heads
    controls = attention.controls
    static = controls.static
    out = torch.zeros(length, batch, channels, dtype=query.dtype)
    weights = torch.zeros(heads, batch, length, key.size(0) + static, dtype=query.dtype)
    for b in range(batch):
        for t in range(length):
            q = attention.q_proj(query[t, b])
            mixed = torch.zeros(channels, dtype=query.dtype)
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                pairs = {}
                for s in range(key.size(0)):
                    if may_attend(b, t, s):
                        pairs[s] = (
                            attention.k_proj(key[s, b])[part], attention.v_proj(key[s, b])[part]
                        )  # fmt: skip
                for n in range(static):
                    pairs[key.size(0) + n] = (
                        controls.static_keys[h, n], controls.static_values[h, n]
                    )  # fmt: skip
                exponents = {s: math.exp(float(q[part] @ k) / math.sqrt(size))
                             for s, (k, _) in pairs.items()}  # fmt: skip
                total = sum(exponents.values())
                if controls.sink is not None:
                    total += math.exp(float(controls.sink[h]))
                for s, (_, value) in pairs.items():
                    weights[h, b, t, s] = exponents[s] / total
                    mixed[part] += weights[h, b, t, s] * value
            out[t, b] = attention.out_proj(mixed)
    return out, weights
