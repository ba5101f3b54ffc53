"""fairseq's multi-head attention through torch's fused kernels: same parameters, same answers.

fairseq takes one path in training and another, with a float32 softmax and explicit products, in
decoding. Here both are ``scaled_dot_product_attention``; explicit weights are computed only when
somebody asks for them. In beam search nothing moves (``beam_cache``).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor

from ..literals import numbers_of
from .beam_cache import BeamCache, GrowingCache, sentences_left
from .controls import AttentionControls, controls_for

State = dict[str, Any]
CACHE = "attn_state"  # the name under which fairseq's attention keeps its own


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
        lesioned_keys: number of leading memory keys, hidden from text while a lesion is active.
        memory_queries: number of leading memory queries, which a lesion does not touch.
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
    attention.controls = controls_for(cfg, attention.num_heads, attention.head_dim)
    scope = "cross" if side == "decoder" and cross else side
    if cfg.memory_lesion != "none" and cfg.memory_lesion_scope in (scope, "all"):
        attention.lesion = cfg.memory_lesion
        attention.lesioned_keys = lesioned_keys
        attention.lesioned_slots = numbers_of(cfg.memory_lesion_slots)
        attention.memory_queries = memory_queries
    return attention


def spare_layers(layers: Any, cfg: Any) -> None:
    """Leave the lesion in the layers that ``memory_lesion_layers`` names alone."""
    chosen = numbers_of(cfg.memory_lesion_layers)
    for number, layer in enumerate(layers):
        for module in layer.modules() if chosen is not None and number not in chosen else ():
            if hasattr(module, "lesion"):
                module.lesion = "none"


class FusedAttention(MultiheadAttention):
    """Multi-head attention with boolean masks, in training and in incremental decoding.

    Parameters, their names and their initialisation are those of fairseq's class.

    Attributes:
        lesion: ``"none"``; ``"no-read"``: text may not attend to memory; ``"zero-read"``: what it
            attends to memory is set to zero after the softmax.
        lesioned_keys: leading keys that are memory.
        lesioned_slots: the numbers of those among them that the lesion is of; None: of all.
        memory_queries: leading queries that are memory, in the first step if there are steps.
        controls: a sink and static keys and values, or None. The static ones are the last of the S
            keys in weights, and what a sink takes is missing from their sums.
        offers_weights: in place of weights that were not asked for, a function is returned that
            computes them, H x B x T x S; of attention to the source, whose keys stay what they are.
    """

    lesion = "none"
    offers_weights = False
    lesioned_keys = 0
    lesioned_slots: list[int] | None = None
    memory_queries = 0
    controls: AttentionControls | None
    fused_weight: Tensor | None
    fused_bias: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.controls = None
        # filled before inference; they move with the module but are not in its checkpoints
        self.register_buffer("fused_weight", None, persistent=False)
        self.register_buffer("fused_bias", None, persistent=False)

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
            attn_mask: T x S, boolean, True where a query may *not* attend; or what is added to
                the scores, in incremental decoding G x 1 x (K*T) x (S*K) for G sentences of K
                hypotheses each (``beam_cache``).
            static_kv: key and value do not change between steps (the encoder's output).

        Returns:
            The output (T x B x C), and on request the weights: B x T x S averaged over heads, or
            H x B x T x S with ``need_head_weights``; see also :attr:`offers_weights`.
        """
        assert not before_softmax, "nothing in fairseq's Transformers asks for raw scores"
        length, batch, _ = query.shape
        cache = self._cache(incremental_state)
        first_step = cache is None
        beam = 1
        if static_kv and cache is not None:
            q = self._split_heads(self.q_proj(query))
            k, v, key_padding_mask, beam = cache.keys, cache.values, cache.padding, cache.beam
        elif self.self_attention and incremental_state is not None:
            q, k, v = map(self._split_heads, self._project(query))
            # the mask of a beam search has one entry a sentence (beam_cache.ancestry_mask)
            if attn_mask is not None and attn_mask.dim() == 4:
                beam = batch // attn_mask.size(0)
            grown = cast(GrowingCache, cache or GrowingCache.empty(k, beam))
            k, v, key_padding_mask = grown.append(k, v, key_padding_mask)
            self.set_incremental_state(incremental_state, CACHE, grown)
            if self.controls is not None:
                k, v, key_padding_mask = self.controls.append(k, v, key_padding_mask)
        else:
            if self.self_attention:
                q, k, v = map(self._split_heads, self._project(query))
            else:
                q = self._split_heads(self.q_proj(query))
                k, v = self._split_heads(self.k_proj(key)), self._split_heads(self.v_proj(value))
            k, v = k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3)  # B or G x H x S x D
            beam = batch // k.size(0)
            if self.controls is not None:
                k, v, key_padding_mask = self.controls.append(k, v, key_padding_mask)
            if incremental_state is not None:
                cache = BeamCache(k, v, beam, key_padding_mask)
                self.set_incremental_state(incremental_state, CACHE, cache)

        # T x B x H x D -> G x H x (K*T) x D: the hypotheses of a sentence as so many more queries
        shape = (length, batch // beam, beam, self.num_heads, self.head_dim)
        q = (
            q.view(shape)
            .permute(1, 3, 2, 0, 4)
            .reshape(batch // beam, self.num_heads, -1, self.head_dim)
        )

        mask = attn_mask  # boolean (True where masked), or added to the scores
        if self.controls is not None:
            mask = self.controls.extend(mask)
        if key_padding_mask is not None:
            mask = _join(mask, key_padding_mask.bool()[:, None, None, :])  # B x 1 x 1 x S
        hidden = None
        if self.lesion != "none":
            hidden = self._text_meets_memory(length, k.size(2), beam, first_step)
        if self.lesion == "no-read":
            mask = _join(mask, hidden)
        active = self.training or self.dropout_module.apply_during_inference
        dropout = self.dropout_module.p if active else 0.0

        asked = need_weights or need_head_weights
        weights: Any = None
        if k.size(2) == 0:
            x = torch.zeros_like(q)
        elif asked or self.lesion == "zero-read":
            weights = self._weights(q, k, mask, hidden)
            x = F.dropout(weights.type_as(v), dropout) @ v
        else:
            allowed = ~mask if mask is not None and mask.dtype == torch.bool else mask
            attend = (
                F.scaled_dot_product_attention if self.controls is None else self.controls.attend
            )
            x = attend(q, k, v, allowed, dropout)
        if asked and weights is not None:
            weights = _by_head(weights, beam, length)
            weights = weights if need_head_weights else weights.mean(dim=0)
        else:
            weights = None
            if self.offers_weights:
                weights = partial(self._weights_of_heads, q, k, mask, hidden, beam, length)
        x = x.unflatten(2, (beam, length)).permute(3, 0, 2, 1, 4)  # T x G x K x H x D
        return self.out_proj(x.reshape(length, batch, self.embed_dim)), weights

    def reorder_incremental_state(self, incremental_state: State | None, new_order: Tensor) -> None:
        """Follow beam search: drop finished sentences; hypotheses stay where they were written.

        A decoder with many layers finds out which are left once, and calls :meth:`keep`.
        """
        cache = self._cache(incremental_state)
        if cache is not None:
            left = sentences_left(new_order, cache.beam, cache.keys.size(0))
            self.keep(incremental_state, left)

    def keep(self, incremental_state: State | None, sentences: Tensor | None) -> None:
        """Drop all but ``sentences`` (G' old numbers, or None: all are left) from the cache."""
        cache = self._cache(incremental_state)
        if cache is not None and sentences is not None:
            self.set_incremental_state(incremental_state, CACHE, cache.select(sentences))

    def _cache(self, incremental_state: State | None) -> BeamCache | None:
        """What earlier steps have left."""
        if incremental_state is None:
            return None
        return self.get_incremental_state(incremental_state, CACHE)

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None, hidden: Tensor | None) -> Tensor:
        """What is multiplied with the values, but for dropout: G x H x (K*T) x S."""
        weights = _attention_weights(q * self.scaling, k, mask, self.controls)
        if self.lesion == "zero-read" and hidden is not None:
            weights = weights.masked_fill(hidden, 0.0)
        return weights

    def _weights_of_heads(
        self, q: Tensor, k: Tensor, mask: Tensor | None, hidden: Tensor | None, beam: int,
        length: int,
    ) -> Tensor:  # fmt: skip
        """As ``need_head_weights`` gives them: H x B x T x S."""
        return _by_head(self._weights(q, k, mask, hidden), beam, length)

    def make_generation_fast_(self, **kwargs: Any) -> None:
        """Hook of fairseq's, before inference: project queries, keys and values in one product."""
        # only a plain projection is what its weight says, not a quantised one, nor one with a hook
        if self.self_attention and all(
            type(p) is torch.nn.Linear and not p._forward_pre_hooks and not p._forward_hooks
            for p in self._projections()
        ):
            weights, biases = zip(*((p.weight, p.bias) for p in self._projections()), strict=True)
            self.fused_weight = torch.cat(weights).detach()
            self.fused_bias = torch.cat(biases).detach()

    def _forget_fused(self) -> None:
        self.fused_weight = self.fused_bias = None

    def _adaptive_prune_heads(self, reserve_head_index: list[tuple[int, int]]) -> None:
        """Hook of fairseq's pruning: keep some heads only; the projections change."""
        self._forget_fused()
        if self.controls is not None:
            self.controls.keep_heads([start // self.head_dim for start, _ in reserve_head_index])
        super()._adaptive_prune_heads(reserve_head_index)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget_fused()
        super()._load_from_state_dict(*args, **kwargs)

    def _projections(self) -> tuple[torch.nn.Linear, ...]:
        return self.q_proj, self.k_proj, self.v_proj

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values of self-attention, each T x B x C."""
        if self.fused_weight is not None:
            return F.linear(x, self.fused_weight, self.fused_bias).chunk(3, dim=-1)
        return [projection(x) for projection in self._projections()]

    def _text_meets_memory(self, queries: int, keys: int, beam: int, first_step: bool) -> Tensor:
        """(K*T) x S, True where the query is text and the key is memory (that has the lesion)."""
        device = self.q_proj.weight.device
        text = torch.arange(queries, device=device) >= (self.memory_queries if first_step else 0)
        slots = torch.arange(keys, device=device) // (beam if self.self_attention else 1)
        memory = slots < self.lesioned_keys
        if self.lesioned_slots is not None:
            memory &= torch.isin(slots, torch.tensor(self.lesioned_slots, device=device))
        return text.repeat(beam)[:, None] & memory

    def _split_heads(self, x: Tensor) -> Tensor:
        """T x B x C -> T x B x H x D."""
        return x.unflatten(-1, (self.num_heads, self.head_dim))


def _by_head(weights: Tensor, beam: int, length: int) -> Tensor:
    """G x H x (K*T) x S -> H x B x T x S."""
    return weights.unflatten(2, (beam, length)).transpose(1, 2).flatten(0, 1).transpose(0, 1)


def _join(mask: Tensor | None, masked: Tensor | None) -> Tensor | None:
    """Mask more: ``masked`` is boolean, ``mask`` boolean too or added to the scores."""
    if mask is None or masked is None:
        return masked if mask is None else mask
    if mask.dtype == torch.bool:
        return mask | masked
    return torch.where(masked, float("-inf"), mask)


def _attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None, controls: AttentionControls | None
) -> Tensor:
    """The softmax, at least in float32; a query without any key gets zeros, not NaN."""
    softmax = partial(torch.softmax, dim=-1) if controls is None else controls.softmax
    scores = (q @ k.transpose(-2, -1)).to(torch.promote_types(q.dtype, torch.float32))
    if mask is None:
        return softmax(scores)
    masked = mask if mask.dtype == torch.bool else mask == float("-inf")
    scores = scores.masked_fill(masked, float("-inf"))
    return softmax(scores).masked_fill(masked.all(dim=-1, keepdim=True), 0.0)
