"""MemTransformer: memory and text pass through one and the same layer.

Paper, section 3.1, with X = [X^mem ; X^seq]:

    A = LN(X + MH(X, X, X))
    H = LN(A + FF(A))

so every memory slot and every token attends to all slots and all tokens, and this is fairseq's own
encoder layer over a longer input, post-norm or pre-norm (``--encoder-normalize-before``).
"""

from typing import Any

from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import nn

from ..attention.fused import build_attention


class SharedUpdateLayer(TransformerEncoderLayerBase):
    """fairseq's encoder layer, same parameters, over memory and text together."""

    needs_reader = False

    def build_self_attention(self, embed_dim: int, cfg: Any) -> Any:
        """Hook of fairseq's constructor; ``embed_dim`` is C."""
        return build_attention(
            cfg,
            "encoder",
            embed_dim,
            lesioned_keys=cfg.memory_tokens,
            memory_queries=cfg.memory_tokens,
            self_attention=True,
        )

    @classmethod
    def shared_controller(cls, cfg: Any) -> nn.Module | None:
        """All parameters are the layer's own."""
        return None

    @classmethod
    def warm_start(cls, state: dict[str, Any], name: str, unread: str = "") -> bool:
        """Have nothing to complete: the parameters are fairseq's."""
        return False
