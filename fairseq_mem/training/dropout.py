"""Dropout that does not spend its time on drawing random numbers.

On a CPU torch draws one random number an element, one after the other, which is most of dropout's
time and a tenth of a training step. Four elements can share one 64-bit draw, 16 bits each: the
probability is then a multiple of 2^-16, off by 8e-6 at most. Near 0 and near 1, where that is too
much, torch's dropout is used.
"""

from typing import Any

import torch
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

_STEPS = 1 << 16  # what 16 bits can tell apart
_RAREST = 0.01  # neither p nor 1-p is below it: so neither is off by more than a thousandth

# fairseq's own exceptions
_SHORTENED = {
    "TransformerEncoderBase": "TransformerEncoder",
    "TransformerDecoderBase": "TransformerDecoder",
}


def keep_mask(x: Tensor, p: float) -> Tensor:
    """A random mask of the shape of ``x``, True (keep) with probability 1-p.

    ``p`` is below 1 - 2^-17, or the threshold would need a 17th bit.
    """
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)  # even between -2^15 and 2^15 - 1
    return bits >= round(p * _STEPS) - _STEPS // 2


class _Dropout(torch.autograd.Function):
    """x * mask / (1-p), keeping one byte an element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.scale = 1 / (1 - p)
        mask = keep_mask(x, p)
        ctx.save_for_backward(mask)
        return (x * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), None


class Dropout(FairseqDropout):
    """fairseq's dropout, faster on a CPU; elsewhere torch's."""

    @property
    def active(self) -> bool:
        """Whether something is dropped: in training, and with fairseq's ``--retain-dropout``."""
        return self.training or self.apply_during_inference

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Zero each element of ``x`` (any shape) with probability p, scale the others up."""
        common = _RAREST <= self.p <= 1 - _RAREST
        if not self.active or not common or x.device.type != "cpu":
            return super().forward(x, inplace)
        return _Dropout.apply(x, self.p)


def use_fast_dropout(module: nn.Module) -> None:
    """Put :class:`Dropout` where ``module`` and its parts have fairseq's.

    ``--retain-dropout-modules`` finds them by the name of the class they are in, which is then the
    one that fairseq's own ``transformer`` has there.
    """
    for part in module.modules():
        for name, child in part.named_children():
            if type(child) is FairseqDropout:
                setattr(part, name, Dropout(child.p, _fairseq_name(part)))


def _fairseq_name(module: nn.Module) -> str:
    """What fairseq calls the class, of its own, that ``module`` is or comes from."""
    classes = (cls for cls in type(module).__mro__ if cls.__module__.startswith("fairseq."))
    name = next(classes).__name__
    return _SHORTENED.get(name, name)
