"""fairseq's multi-head attention through torch's fused kernels: same parameters, same answers.

fairseq takes one path in training and another, with a float32 softmax and explicit products, in
decoding. Here both are ``scaled_dot_product_attention``; explicit weights are computed only when
somebody asks for them. The incremental state has fairseq's keys and shapes, so that fairseq's own
reordering of hypotheses serves.
"""

from typing import Any

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor

State = dict[str, dict[str, Tensor | None]]


def build_attention(
    cfg: Any,
    side: str,
    embed_dim: int,
    lesioned_keys: int = 0,
    memory_queries: int = 0,
    **kind: bool,
) -> "FusedAttention":
    """Attention for a layer of the encoder or the decoder, from fairseq's options.

    Args:
        cfg: fairseq's ``TransformerConfig`` with our options.
        side: ``"encoder"`` or ``"decoder"``, whose number of heads counts.
        embed_dim: C.
        lesioned_keys: so many leading keys are memory; a lesion, if the options order one here,
            hides them from text.
        memory_queries: so many leading queries are memory, which a lesion leaves alone.
        kind: ``self_attention=True`` or ``encoder_decoder_attention=True``, as fairseq names them.
    """
    cross = kind.get("encoder_decoder_attention", False)
    key_dim = cfg.encoder.embed_dim if cross else None
    attention = FusedAttention(
        embed_dim,
        getattr(cfg, side).attention_heads,
        kdim=key_dim,
        vdim=key_dim,
        dropout=cfg.attention_dropout,
        q_noise=cfg.quant_noise.pq,
        qn_block_size=cfg.quant_noise.pq_block_size,
        **kind,
    )
    scope = "cross" if side == "decoder" and cross else side
    if cfg.memory_lesion != "none" and cfg.memory_lesion_scope in (scope, "all"):
        attention.lesion = cfg.memory_lesion
        attention.lesioned_keys = lesioned_keys
        attention.memory_queries = memory_queries
    return attention


class FusedAttention(MultiheadAttention):
    """Multi-head attention with boolean masks, in training and in incremental decoding.

    Parameters, their names and their initialisation are those of fairseq's class.

    Attributes:
        lesion: ``"none"``; ``"no-read"``: text may not attend to memory; ``"zero-read"``: what it
            attends to memory is set to zero after the softmax (as the authors' language-model
            code does).
        lesioned_keys: leading keys that are memory.
        memory_queries: leading queries that are memory, in the first step if there are steps.
    """

    lesion = "none"
    lesioned_keys = 0
    memory_queries = 0

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: State | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` (T x B x C) to ``key`` and ``value`` (S x B x C).

        A query that may attend to no key at all gets zero, before the output projection.

        Args:
            key_padding_mask: B x S, True at padding.
            attn_mask: T x S, boolean, True where a query may *not* attend.
            static_kv: key and value do not change between steps (the encoder's output).

        Returns:
            The output (T x B x C), and on request the weights: B x T x S averaged over heads, or
            H x B x T x S with ``need_head_weights``.
        """
        assert not before_softmax, "nothing in fairseq's Transformers asks for raw scores"
        length, batch, _ = query.shape
        saved = None if incremental_state is None else self._get_input_buffer(incremental_state)
        q = self._heads(self.q_proj(query))
        if static_kv and saved:
            k, v, key_padding_mask = (saved[name] for name in self._CACHE)
        else:
            k = self._heads(self.k_proj(query if self.self_attention else key))
            v = self._heads(self.v_proj(query if self.self_attention else value))
            if saved:
                k = torch.cat([saved["prev_key"], k], dim=2)
                v = torch.cat([saved["prev_value"], v], dim=2)
                key_padding_mask = _append_padding(
                    saved["prev_key_padding_mask"], key_padding_mask, k.size(2), length
                )
            if incremental_state is not None:
                state = dict(zip(self._CACHE, (k, v, key_padding_mask), strict=True))
                self._set_input_buffer(incremental_state, state)

        masked = attn_mask
        if key_padding_mask is not None:
            padding = key_padding_mask.bool()[:, None, None, :]  # B x 1 x 1 x S
            masked = padding if masked is None else padding | masked
        if self.lesion == "no-read":
            hidden = self._text_meets_memory(length, k.size(2), first_step=not saved)
            masked = hidden if masked is None else masked | hidden
        active = self.training or self.dropout_module.apply_during_inference
        dropout = self.dropout_module.p if active else 0.0

        weights = None
        if k.size(2) == 0:
            x = torch.zeros_like(q)
        elif need_weights or need_head_weights or self.lesion == "zero-read":
            weights = _attention_weights(q * self.scaling, k, masked)  # B x H x T x S
            if self.lesion == "zero-read":
                hidden = self._text_meets_memory(length, k.size(2), first_step=not saved)
                weights = weights.masked_fill(hidden, 0.0)
            x = F.dropout(weights.type_as(v), dropout) @ v
            weights = weights.transpose(0, 1) if need_head_weights else weights.mean(dim=1)
        else:
            allowed = None if masked is None else ~masked
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        x = x.permute(2, 0, 1, 3).reshape(length, batch, self.embed_dim)
        return self.out_proj(x), weights

    def _text_meets_memory(self, queries: int, keys: int, first_step: bool) -> Tensor:
        """T x S, True where the query is text and the key is memory."""
        device = self.q_proj.weight.device
        text = torch.arange(queries, device=device) >= (self.memory_queries if first_step else 0)
        return text[:, None] & (torch.arange(keys, device=device) < self.lesioned_keys)

    _CACHE = ("prev_key", "prev_value", "prev_key_padding_mask")

    def _heads(self, x: Tensor) -> Tensor:
        """T x B x C -> B x H x T x D."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).permute(1, 2, 0, 3)


def _attention_weights(q: Tensor, k: Tensor, masked: Tensor | None) -> Tensor:
    """The softmax, at least in float32; a query without any key gets zeros, not NaN."""
    scores = (q @ k.transpose(-2, -1)).to(torch.promote_types(q.dtype, torch.float32))
    if masked is None:
        return torch.softmax(scores, dim=-1)
    scores = scores.masked_fill(masked, float("-inf"))
    return torch.softmax(scores, dim=-1).masked_fill(masked.all(dim=-1, keepdim=True), 0.0)


def _append_padding(
    old: Tensor | None, new: Tensor | None, total: int, added: int
) -> Tensor | None:
    """Join the padding masks of the cache (B x S') and of the new keys (B x added)."""
    if old is None and new is None:
        return None
    if old is None:
        assert new is not None
        old = new.new_zeros(new.size(0), total - added)
    if new is None:
        new = old.new_zeros(old.size(0), added)
    return torch.cat([old.bool(), new.bool()], dim=1)
