"""MemBottleneck: whatever the text learns about itself has gone through memory.

Paper, section 3.3, with X = [X^mem ; X^seq], the layer's input. First memory reads everything:

    A^mem = LN(X^mem + MH^mem(X^mem, X, X))            H^mem = LN(A^mem + FF^mem(A^mem))

then the text reads nothing but the updated memory:

    A^seq = LN(X^seq + MH^seq(X^seq, H^mem, H^mem))    H^seq = LN(A^seq + FF^seq(A^seq))

No token attends to a token, so that the cost grows with m(n+m) + nm, linearly in n. Pre-norm
(``--encoder-normalize-before``), each side with its own norms:

    A^mem = X^mem + MH^mem(LN^mem(X^mem), LN^mem(X), LN^mem(X))        and so on,
    A^seq = X^seq + MH^seq(LN^seq(X^seq), LN^seq(H^mem), LN^seq(H^mem))
"""

from typing import Any

import torch
from torch import Tensor

from ..layers import ReadingLayer
from .ctrl import CtrlUpdateLayer


class BottleneckUpdateLayer(CtrlUpdateLayer):
    """Parameters as in MemCtrl, another way of the information.

    The text of every layer reads what its controller writes, so each has one.
    """

    needs_reader = False
    controller: ReadingLayer

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """Update memory from all of ``x`` ((m+T) x B x C), then the text from memory alone.

        Args:
            encoder_padding_mask: B x (m+T), True at padding.
        """
        memory, text = x[: self.memory_tokens], x[self.memory_tokens :]
        if self.memory_tokens > 0:
            memory = self.controller.read(memory, x, encoder_padding_mask)
        return torch.cat([memory, self.read(text, memory)])
