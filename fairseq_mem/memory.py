"""The memory tokens: their vectors, prepending, splitting off, masks, and fitting a checkpoint.

Notation everywhere: m memory slots, T text positions, B sentences, C channels.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError

logger = logging.getLogger(__name__)


class MemoryTokens(nn.Module):
    """m trainable vectors in front of every sequence (paper, section 3.1: X^mem).

    They enter beside the finished text embedding: its scale, positions, layer norm and dropout
    do not touch them. Rows are drawn from N(0, std^2) and so distinct; equal slots would stay
    equal, for nothing but their vectors tells them apart.

    Args:
        tokens: m; may be 0 when a checkpoint is evaluated without its memory.
        embed_dim: C.
        std: of the initial vectors; the scale of the embedded text is the right one.
        takes_positions: slot i takes position code i, and text is numbered on from
            ``text_offset``.

    Attributes:
        text_offset: number of position codes in front of the text's first. It stays what it was
            in training when fewer slots are used, so a checkpoint holds it, as
            ``position_offset``. It is no buffer: to read a number off a GPU the CPU must wait.
    """

    def __init__(self, tokens: int, embed_dim: int, std: float, takes_positions: bool) -> None:
        super().__init__()
        self.tokens = tokens
        self.std = std
        self.takes_positions = takes_positions
        self.weight = nn.Parameter(torch.empty(tokens, embed_dim)) if tokens > 0 else None
        if self.weight is not None:
            nn.init.normal_(self.weight, std=std)
        self.text_offset = tokens if takes_positions else 0

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.takes_positions:
            # a float, for fairseq's moving average (--store-ema) multiplies whatever it finds
            destination[prefix + "position_offset"] = torch.tensor(float(self.text_offset))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.takes_positions and prefix + "position_offset" in state_dict:
            self.text_offset = round(float(state_dict.pop(prefix + "position_offset")))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.tokens}, std={self.std:.3g}, takes_positions={self.takes_positions}"

    def prepend(
        self, x: Tensor, codes: Tensor | None = None, carried: Tensor | None = None
    ) -> Tensor:
        """Put memory in front of ``x`` (T x B x C).

        Args:
            x: the text.
            codes: m x C, memory's position codes.
            carried: m x B x C, what was handed on, in the place of the trained vectors.

        Returns:
            (m+T) x B x C.
        """
        if self.weight is None:
            return x
        if carried is not None:
            memory = carried if codes is None else carried + codes.unsqueeze(1)
            return torch.cat([memory.to(x), x], dim=0)
        memory = self.weight if codes is None else self.weight + codes
        memory = memory.to(x).unsqueeze(1).expand(-1, x.size(1), -1)
        return torch.cat([memory, x], dim=0)

    def prepend_padding(self, padding: Tensor) -> Tensor:
        """Extend a padding mask (B x T, True at padding) to B x (m+T): memory is never padded."""
        return torch.cat([padding.new_zeros(padding.size(0), self.tokens), padding], dim=1)

    def numbered_through(self, tokens: Tensor, padding_idx: int) -> Tensor:
        """Put ``text_offset`` words in front of ``tokens`` (B x T), for the position table.

        What the words are does not matter, only that they are not padding: fairseq's position
        modules count words.
        """
        words = tokens.new_full((tokens.size(0), self.text_offset), padding_idx + 1)
        return torch.cat([words, tokens], dim=1)


def memory_for(cfg: Any, tokens: int, embed_dim: int) -> MemoryTokens:
    """Build the memory tokens from fairseq's options; ``tokens`` is m, ``embed_dim`` is C."""
    std = cfg.memory_init_std
    if std is None:
        std = embed_dim**-0.5 if cfg.no_scale_embedding else 1.0
    return MemoryTokens(tokens, embed_dim, std, cfg.memory_positions)


def causal_mask(
    memory: int, text: int, device: torch.device, full_context: bool = False
) -> Tensor | None:
    """The mask of a causal stack whose input is ``memory`` slots and then ``text`` positions.

    A slot sees earlier slots and itself, never text; a text position sees all of memory and, but
    for ``full_context``, no later text.

    Returns:
        (m+T) x (m+T), True where a query (row) may *not* attend; None when nothing is forbidden.
    """
    if full_context and memory == 0:
        return None
    size = memory + text
    mask = torch.ones(size, size, dtype=torch.bool, device=device).triu(1)
    if full_context:
        mask[memory:] = False
    return mask


def fit_checkpoint(
    state: dict[str, Any], name: str, memory: MemoryTokens | None, grow: bool
) -> None:
    """Make the memory in a checkpoint fit the model, in place, before it is loaded.

    As many slots as the model has are taken from the front; a model without memory drops them.
    Missing slots are freshly initialised if the checkpoint has none at all (a stock
    ``transformer``) or with ``grow``, with a warning.

    Args:
        state: the checkpoint's parameters.
        name: of the module that holds memory, ``encoder.memory`` for one.
        memory: the model's; None if it was built without.
        grow: ``--memory-grow``.

    Raises:
        UserError: the checkpoint has fewer slots than the model, and ``grow`` is off.
    """
    weight, offset = f"{name}.weight", f"{name}.position_offset"
    saved = state.pop(weight, None)
    saved_tokens = 0 if saved is None else saved.size(0)
    saved_offset = round(float(state.pop(offset, saved_tokens)))
    if memory is None:
        return
    if memory.takes_positions:
        state[offset] = torch.tensor(float(max(saved_offset, memory.tokens)))
    if memory.weight is None:
        return
    if saved is None:
        logger.warning(
            f"the checkpoint has no {name}: {memory.tokens} memory tokens are freshly initialised"
        )
    elif saved_tokens < memory.tokens:
        side = name.split(".")[0]
        if not grow:
            raise UserError(
                f"the checkpoint has {saved_tokens} memory tokens in its {side}, "
                f"{memory.tokens} were asked for; ask for {saved_tokens} or fewer, or add "
                "--memory-grow to initialise the missing ones freshly"
            )
        logger.warning(
            f"the checkpoint has {saved_tokens} memory tokens in its {side}: "
            f"{memory.tokens - saved_tokens} more are freshly initialised"
        )
    fresh = memory.weight.detach().clone()
    if saved is not None:
        common = min(saved_tokens, memory.tokens)
        fresh[:common] = saved[:common]
    state[weight] = fresh
