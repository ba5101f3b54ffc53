"""MemCtrl and MemCtrl Shared: memory is updated by a controller of its own.

Paper, section 3.2, with X = [X^mem ; X^seq], the layer's input:

    A^mem = LN(X^mem + MH^mem(X^mem, X, X))      H^mem = LN(A^mem + FF^mem(A^mem))
    A^seq = LN(X^seq + MH^seq(X^seq, X, X))      H^seq = LN(A^seq + FF^seq(A^seq))

Both read the input, neither sees the other's result. MH^mem, FF^mem and their LNs are the
controller: one a layer, or (MemCtrl Shared) one for all layers. MH^seq, FF^seq and theirs are the
parameters of fairseq's encoder layer. Pre-norm (``--encoder-normalize-before``), each side with its
own norms:

    A^mem = X^mem + MH^mem(LN^mem(X^mem), LN^mem(X), LN^mem(X))    and so on.

With the controller's parameters equal to the layer's own this is MemTransformer, which is where a
warm start begins.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import ReadingLayer
from .warm_start import copy_missing


class SharedCtrlUpdateLayer(ReadingLayer):
    """MemCtrl Shared: the controller comes with the call.

    Args:
        cfg: fairseq's ``TransformerConfig`` with our options.
        has_reader: somebody reads memory behind this layer; otherwise it passes as it is.
    """

    needs_reader = True

    def __init__(self, cfg: Any, has_reader: bool = True) -> None:
        super().__init__(cfg, lesioned_keys=cfg.memory_tokens)
        self.memory_tokens = cfg.memory_tokens
        self.has_reader = has_reader

    def forward(
        self, x: Tensor, encoder_padding_mask: Tensor | None, controller: ReadingLayer | None = None
    ) -> Tensor:
        """Update memory and text (``x``, (m+T) x B x C), each from all of ``x``.

        Args:
            encoder_padding_mask: B x (m+T), True at padding.
            controller: updates the memory; None where there is nothing to update.
        """
        memory, text = x[: self.memory_tokens], x[self.memory_tokens :]
        text = self.read(text, x, encoder_padding_mask)
        if self.memory_tokens == 0:
            return text
        if self.has_reader and controller is not None:
            memory = controller.read(memory, x, encoder_padding_mask)
        return torch.cat([memory, text])

    @classmethod
    def shared_controller(cls, cfg: Any) -> nn.Module | None:
        """Build the one controller of all layers."""
        return ReadingLayer(cfg)

    @classmethod
    def warm_start(cls, state: dict[str, Any], name: str, unread: str = "") -> bool:
        """Begin with a copy of the first layer's parameters."""
        return copy_missing(state, f"{name}.layers.0", f"{name}.controller")


class CtrlUpdateLayer(SharedCtrlUpdateLayer):
    """MemCtrl: each layer has a controller, but a last one without a reader."""

    controller: ReadingLayer | None

    def __init__(self, cfg: Any, has_reader: bool = True) -> None:
        super().__init__(cfg, has_reader)
        self.controller = ReadingLayer(cfg) if has_reader else None

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """As :class:`SharedCtrlUpdateLayer`, with the layer's own controller."""
        return super().forward(x, encoder_padding_mask, self.controller)

    @classmethod
    def shared_controller(cls, cfg: Any) -> nn.Module | None:
        """There is none: each layer has its own."""
        return None

    @classmethod
    def warm_start(cls, state: dict[str, Any], name: str, unread: str = "") -> bool:
        """Begin with a copy of each layer's own parameters, which computes MemTransformer."""
        for key in [key for key in state if key.startswith(f"{unread}.controller.")]:
            del state[key]
        # the checkpoint's layers: --encoder-layers-to-keep takes its choice of them afterwards
        own = re.compile(re.escape(name) + r"\.layers\.\d+(?=\.)")
        names = sorted({found[0] for key in state if (found := own.match(key))} - {unread})
        return any([copy_missing(state, layer, f"{layer}.controller") for layer in names])
