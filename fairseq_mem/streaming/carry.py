"""What the next sentence (or segment) begins with: memory, handed on plainly or through a gate.

With P the memory (m x C) that a sentence began with and O what memory holds behind the last layer
and its norm, when the sentence has been read, the next sentence begins with

    plain:   O
    gate:    G * P + (1 - G) * O,    G = sigmoid([P ; O] W + b),    W 2C x C, b C

slot by slot and channel by channel: 2 C^2 + C parameters, one gate for all slots. Plainly handed
on, memory has to be written anew by every sentence and what it holds wears off; the gate lets a
channel stay what it is. Without gate: Recurrent Memory Transformer (Bulatov, Kuratov, Burtsev
2022); with one, between sentences: Learn to Remember (Feng et al. 2022), whose gate differs.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

CARRIES = ("gate", "plain")


class GatedCarry(nn.Module):
    """The gate; ``dim`` is C."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)
        nn.init.xavier_uniform_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, before: Tensor, written: Tensor) -> Tensor:
        """The next sentence's memory, of any shape that ends in m x C or in B x C.

        Args:
            before: what the sentence began with.
            written: what memory holds behind it, of the same shape.
        """
        gate = torch.sigmoid(self.gate(torch.cat([before, written], dim=-1)))
        return gate * before + (1 - gate) * written

    def nothing(self) -> Tensor:
        """Zero; torch's distributed training stops where a parameter has no gradient.

        To be added to what is trained, for in some batches nothing is handed on.
        """
        return 0.0 * (self.gate.weight.mean() + self.gate.bias.mean())


def carry_for(args: Any, dim: int) -> GatedCarry | None:
    """The gate that a model needs, by its options; None if memory is handed on plainly or not."""
    recurrent = getattr(args, "memory_recurrence", 0) > 0 and args.memory_tokens > 0
    return GatedCarry(dim) if recurrent and args.memory_carry == "gate" else None


def fit_carry(state: dict[str, Any], name: str, carry: GatedCarry | None) -> None:
    """Make the gate in a checkpoint fit the model, in place, before it is loaded.

    A checkpoint of a model that handed nothing on gets a fresh gate, with a warning; a model
    without a gate drops the checkpoint's.

    Args:
        state: the checkpoint's parameters.
        name: of the gate's module, ``encoder.carry`` for one.
        carry: the model's; None if it was built without.
    """
    saved = [key for key in state if key.startswith(f"{name}.")]
    if carry is None:
        for key in saved:
            del state[key]
    elif not saved:
        logger.warning(f"the checkpoint has no {name}: the gate of memory is freshly initialised")
        state.update({f"{name}.{key}": value for key, value in carry.state_dict().items()})
