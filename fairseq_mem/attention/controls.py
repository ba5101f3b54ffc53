"""The cheaper explanations of what memory tokens bring, as parts of every attention.

A **sink** is one learned number a head in the softmax's denominator (as gpt-oss has it): a query
may spend less than all of its attention, and gets nothing for the rest. A place, without content.

    weight(t, s) = exp(score(t, s)) / (exp(sink) + sum over s' of exp(score(t, s')))

**Static** keys and values are trained vectors that every query may read, the same in every sentence
(persistent memory, Sukhbaatar et al. 2019; x-transformers' ``attn_num_mem_kv``): content that no
layer updates. They stand behind the other keys, so that memory and text keep their places; they are
never masked, have no position, and no lesion hides them.

Notation: H heads of D channels, N static pairs, G sentences, T queries, S keys.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError

logger = logging.getLogger(__name__)
NAME = "controls"  # of the module in its attention, and so in checkpoints


class AttentionControls(nn.Module):
    """The parameters of one attention's sink and static pairs.

    The sink begins at 0: as if one more key had the score 0. Static vectors are drawn at the scale
    of what fairseq's projections make of a position of unit variance.

    Args:
        heads: H.
        head_dim: D.
        sink: whether there is one.
        static: N.
    """

    sink: Tensor | None
    static_keys: Tensor | None
    static_values: Tensor | None

    def __init__(self, heads: int, head_dim: int, sink: bool, static: int) -> None:
        super().__init__()
        self.static = static
        self.sink = nn.Parameter(torch.zeros(heads)) if sink else None
        self.static_keys = self.static_values = None
        if static > 0:
            self.static_keys = nn.Parameter(torch.empty(heads, static, head_dim))
            self.static_values = nn.Parameter(torch.empty(heads, static, head_dim))
            for vectors in (self.static_keys, self.static_values):
                nn.init.normal_(vectors, std=2**-0.5)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"sink={self.sink is not None}, static={self.static}"

    def append(
        self, k: Tensor, v: Tensor, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put the static pairs behind keys and values.

        Args:
            k, v: G x H x S x D.
            padding: G x S, True at padding, or None.

        Returns:
            Those of S+N keys.
        """
        if self.static_keys is None or self.static_values is None:
            return k, v, padding
        keys, values = (
            torch.cat([of_text, static.to(of_text).expand(k.size(0), -1, -1, -1)], dim=2)
            for of_text, static in ((k, self.static_keys), (v, self.static_values))
        )
        return keys, values, self.extend(padding)

    def extend(self, mask: Tensor | None) -> Tensor | None:
        """Let every query of a mask (... x S) read the static pairs: ... x (S+N)."""
        if mask is None or self.static == 0:
            return mask
        return F.pad(mask, (0, self.static))  # False, or 0 where it is added to the scores

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, dropout: float
    ) -> Tensor:
        """Attend through torch's fused kernels: the sink is a key of value zero.

        Its score is the same for every query: one more channel holds 1 in queries, 0 in other keys.

        Args:
            q: G x H x T x D.
            k, v: G x H x S x D, static pairs included.
            allowed: as torch's ``attn_mask``.
            dropout: of the weights.

        Returns:
            G x H x T x D; zero for a query that may read nothing.
        """
        if self.sink is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        size = q.size(3)
        room = 8 - size % 8  # the kernels like widths of a multiple of 8
        scale = size**-0.5
        q = torch.cat([q, q.new_ones(*q.shape[:3], 1), q.new_zeros(*q.shape[:3], room - 1)], dim=3)
        k, v = F.pad(k, (0, room, 0, 1)), F.pad(v, (0, room, 0, 1))
        place = F.pad(self.sink.to(k).view(-1, 1, 1) / scale, (size, room - 1, k.size(2) - 1, 0))
        if allowed is not None:
            allowed = F.pad(allowed, (0, 1), value=allowed.dtype == torch.bool)
        out = F.scaled_dot_product_attention(
            q, k + place, v, attn_mask=allowed, dropout_p=dropout, scale=scale
        )
        return out[..., :size]

    def softmax(self, scores: Tensor) -> Tensor:
        """The weights of ``scores`` (G x H x T x S), whose sums lack what goes to the sink."""
        if self.sink is None:
            return torch.softmax(scores, dim=3)
        sink = self.sink.to(scores).view(-1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.softmax(torch.cat([scores, sink], dim=3), dim=3)[..., :-1]

    def keep_heads(self, heads: list[int]) -> None:
        """Prune to some heads, by number."""
        for name, parameter in list(self.named_parameters()):
            setattr(self, name, nn.Parameter(parameter.detach()[heads].clone()))


def controls_for(options: Any, heads: int, head_dim: int) -> AttentionControls | None:
    """Build what a model's options ask for; None if that is nothing."""
    if not has_controls(options):
        return None
    return AttentionControls(heads, head_dim, options.attention_sink, options.memory_static)


def has_controls(options: Any) -> bool:
    """Whether ``--attention-sink`` or ``--memory-static`` was given."""
    return bool(getattr(options, "attention_sink", False)) or (
        getattr(options, "memory_static", 0) > 0
    )


def fit_controls(state: dict[str, Any], prefix: str, model: nn.Module, grow: bool) -> None:
    """Make a checkpoint's sinks and static pairs fit the model, in place, before it is loaded.

    The rules are those of memory tokens: the first N pairs are taken, a model without drops them;
    what the checkpoint has none of begins freshly, with one warning, and so do missing pairs with
    ``grow``.

    Args:
        state: the checkpoint's parameters.
        prefix: of the model's names in it.
        model: whose parameters are to be loaded.
        grow: ``--memory-grow``.

    Raises:
        UserError: the checkpoint has fewer pairs than the model, and ``grow`` is off.
    """
    wanted = {
        prefix + name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if NAME in name.split(".")
    }
    for name in [name for name in state if NAME in name.split(".")]:
        saved, fresh = state.pop(name), wanted.get(name)
        if fresh is None:
            continue
        state[name] = saved
        if saved.dim() != 3 or saved[:, :0].shape != fresh[:, :0].shape:
            continue  # a sink; or other sizes, which torch tells
        has, asked = saved.size(1), fresh.size(1)
        if has < asked and not grow:
            raise UserError(
                f"the checkpoint has {has} static keys in every attention, {asked} were asked "
                f"for; ask for {has} or fewer, or add --memory-grow to initialise the missing ones "
                "freshly"
            )
        if has < asked:
            logger.warning(f"{name}: {asked - has} of {asked} are freshly initialised")
        state[name] = torch.cat([saved[:, :asked], fresh[:, has:]], dim=1)
    absent = sorted({name.rsplit(".", 1)[1] for name in wanted if name not in state})
    if absent:
        logger.warning(
            f"the checkpoint has no {', '.join(absent)}: they are freshly initialised in every "
            "attention"
        )
    for name, fresh in wanted.items():
        state.setdefault(name, fresh)
