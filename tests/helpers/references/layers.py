"""The paper's encoder layers, position by position."""

import torch
from torch import Tensor

from helpers.references import attention, controls


def attend(module, query: Tensor, key: Tensor, may_attend, drop=None) -> tuple[Tensor, Tensor]:
    """One of our attention modules, with a sink and static keys if it has them."""
    if getattr(module, "controls", None) is None:
        return attention.attend(module, query, key, may_attend, drop)
    assert drop is None
    return controls.attend(module, query, key, may_attend)


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


def _residual(norm, x: Tensor, change: Tensor, pre_norm: bool) -> Tensor:
    return x + change if pre_norm else norm(x + change)


def read(layer, x: Tensor, source: Tensor, may_attend, drop=None) -> Tensor:
    """One controller or one text side: ``x`` (T x B x C) reads ``source`` (S x B x C)."""
    pre = layer.normalize_before
    norm, final = layer.self_attn_layer_norm, layer.final_layer_norm
    query, keys = (norm(x), norm(source)) if pre else (x, source)
    a = _residual(norm, x, attend(layer.self_attn, query, keys, may_attend, drop)[0], pre)
    return _residual(final, a, feed_forward(layer, final(a) if pre else a), pre)


def ctrl_update(layer, controller, x: Tensor, padding: Tensor, m: int) -> Tensor:
    """MemCtrl: both sides read the layer's input."""

    def may_attend(b: int, t: int, s: int) -> bool:
        return not bool(padding[b, s])

    memory = read(controller, x[:m], x, may_attend) if m else x[:0]
    return torch.cat([memory, read(layer, x[m:], x, may_attend)])


def bottleneck_update(layer, controller, x: Tensor, padding: Tensor, m: int) -> Tensor:
    """MemBottleneck: memory reads the input, then the text reads the new memory alone."""

    def may_attend(b: int, t: int, s: int) -> bool:
        return not bool(padding[b, s])

    memory = read(controller, x[:m], x, may_attend) if m else x[:0]
    return torch.cat([memory, read(layer, x[m:], memory, lambda b, t, s: True)])
