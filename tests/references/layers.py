"""The paper's encoder layers, position by position."""

import torch
from torch import Tensor

from references.attention import attend


def feed_forward(layer, x: Tensor) -> Tensor:
    """FF of the paper: one position at a time; ``x`` is T x B x C."""
    return torch.stack(
        [
            torch.stack([layer.fc2(torch.relu(layer.fc1(x[t, b]))) for b in range(x.size(1))])
            for t in range(x.size(0))
        ]
    )


def shared_update(layer, x: Tensor, padding: Tensor) -> Tensor:
    """MemTransformer: one layer over memory and text; ``x`` (m+T) x B x C, True in ``padding``."""

    def may_attend(b: int, t: int, s: int) -> bool:
        return not bool(padding[b, s])

    if layer.normalize_before:
        normed = layer.self_attn_layer_norm(x)
        a = x + attend(layer.self_attn, normed, normed, may_attend)[0]
        return a + feed_forward(layer, layer.final_layer_norm(a))
    a = layer.self_attn_layer_norm(x + attend(layer.self_attn, x, x, may_attend)[0])
    return layer.final_layer_norm(a + feed_forward(layer, a))
