"""fairseq's Transformer decoder for an encoder with memory, and with memory of its own.

Decoder memory stands in front of the target under the causal mask: a slot sees earlier slots and
the encoder's output, a token sees all slots. In incremental decoding memory and the first token
run together in the first step, after which memory lives in the attention's cache (``beam_cache``).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from .attention.beam_cache import ancestry_mask, extend_ancestry, sentences_left
from .attention.fused import FusedAttention, State, build_attention, spare_layers
from .layers import wrap_layer
from .memory import causal_mask, memory_for
from .precision import without_autocast
from .training.dropout import use_fast_dropout


class MemTransformerDecoderLayer(TransformerDecoderLayerBase):
    """fairseq's decoder layer, same parameters, with our attention."""

    def __init__(self, cfg: Any, no_encoder_attn: bool = False) -> None:
        super().__init__(cfg, no_encoder_attn)
        self.need_attn = False  # the decoder asks the one layer whose attention it returns

    def build_self_attention(self, embed_dim: int, cfg: Any, **unused: bool) -> Any:
        """Hook of fairseq's layer; ``embed_dim`` is C."""
        memory = cfg.memory_decoder_tokens
        return build_attention(
            cfg,
            "decoder",
            embed_dim,
            lesioned_keys=memory,
            memory_queries=memory,
            self_attention=True,
        )

    def build_encoder_attention(self, embed_dim: int, cfg: Any) -> Any:
        """Hook of fairseq's layer; ``embed_dim`` is C."""
        attention = build_attention(
            cfg,
            "decoder",
            embed_dim,
            lesioned_keys=cfg.memory_tokens,
            memory_queries=cfg.memory_decoder_tokens,
            encoder_decoder_attention=True,
        )
        attention.offers_weights = True
        return attention

    def make_generation_fast_(self, need_attn: bool = False, **kwargs: Any) -> None:
        """Hook of fairseq's, before inference; the decoder goes on asking for attention itself."""


class OnDemand(list[Any]):
    """A list of one item, which is computed when somebody looks at it, and then kept.

    fairseq's decoders return attention with every forward pass, for whoever may look: a criterion
    that guides alignments, a generator, somebody's own code. Hardly anybody does. Copies and
    pickles are plain lists.
    """

    def __init__(self, compute: Callable[[], Any]) -> None:
        super().__init__([None])
        self._compute: Callable[[], Any] | None = compute
        self._with_gradient = torch.is_grad_enabled()

    def __getitem__(self, index: Any) -> Any:
        if self._compute is not None:
            with torch.set_grad_enabled(self._with_gradient):
                super().__setitem__(0, self._compute())
            self._compute = None
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self[:],)

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])


class MemTransformerDecoder(TransformerDecoderBase):
    """Cross-attends to the encoder's memory and text; may have ``memory_decoder_tokens`` itself."""

    def __init__(
        self,
        cfg: Any,
        dictionary: Any,
        embed_tokens: Any,
        no_encoder_attn: bool = False,
        output_projection: Any = None,
    ) -> None:
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        self.source_memory_tokens = cfg.memory_tokens
        # no memory, no module: the keys are then those of fairseq's decoder
        needs_memory = cfg.memory_decoder_tokens > 0 or cfg.memory_positions
        self.memory = (
            memory_for(cfg, cfg.memory_decoder_tokens, self.embed_dim) if needs_memory else None
        )
        spare_layers(self.layers, cfg)
        use_fast_dropout(self)

    def build_decoder_layer(self, cfg: Any, no_encoder_attn: bool = False) -> Any:
        """Hook of fairseq's constructor."""
        return wrap_layer(MemTransformerDecoderLayer(cfg, no_encoder_attn), cfg)

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, list[Tensor]] | None,
        incremental_state: State | None = None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ) -> tuple[Tensor, dict[str, list[Tensor | None]]]:
        """Run the layers.

        Args:
            prev_output_tokens: B x T, the target shifted right.
            encoder_out: the encoder's result, memory inside.
            incremental_state: the caches; only the last token is then looked at.
            full_context_alignment: text sees later text; memory still sees only memory.
            alignment_layer: whose attention to the source is returned (default: the last's).
            alignment_heads: how many heads are averaged, the first ones (default: all).

        Returns:
            Features (B x T x C) and a dictionary with ``attn`` (B x T x S, target rows and source
            columns only; what went to memory is missing from its sums) and ``inner_states``
            (T x B x C each), all without memory.
        """
        on_demand = not self._recomputes()
        if alignment_layer is None:
            alignment_layer = self.num_layers - 1
        source = source_padding = None
        if encoder_out is not None and len(encoder_out["encoder_out"]) > 0:
            source = encoder_out["encoder_out"][0]
        padded = encoder_out is None or encoder_out.get("has_padding", [True])[0]
        if padded and encoder_out is not None and len(encoder_out["encoder_padding_mask"]) > 0:
            source_padding = encoder_out["encoder_padding_mask"][0]

        text, codes = self._embed(prev_output_tokens, incremental_state)
        x = text.transpose(0, 1)  # T x B x C
        length = x.size(0)
        padding = prev_output_tokens[:, -length:].eq(self.padding_idx)
        memory = 0
        if self.memory is not None and not self._has_cache(incremental_state):
            memory = self.memory.tokens
            x = self.memory.prepend(x, codes)
            padding = self.memory.prepend_padding(padding)

        if incremental_state is None:
            mask = causal_mask(memory, length, x.device, full_context_alignment)
        else:
            beam = int(encoder_out["beam"][0]) if encoder_out and "beam" in encoder_out else 1
            mask = self._ancestry_mask(incremental_state, x, beam)
        has_padding = bool(padding.any())

        attn: list[Any] = [None]
        inner_states: list[Tensor | None] = [x[memory:]]
        for index, layer in enumerate(self.layers):
            wanted = index == alignment_layer
            x, weights, _ = layer(
                x,
                source,
                source_padding,
                incremental_state,
                self_attn_mask=mask,
                self_attn_padding_mask=padding if has_padding else None,
                need_attn=wanted and not on_demand,
                need_head_weights=wanted and not on_demand,
            )
            inner_states.append(x[memory:])
            if wanted and weights is not None:
                static = (
                    0
                    if layer.encoder_attn.controls is None
                    else (layer.encoder_attn.controls.static)
                )
                attn = OnDemand(
                    partial(self._to_source, weights, alignment_heads, memory, static, x)
                )

        x = x[memory:]
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        x = x.transpose(0, 1)
        if self.project_out_dim is not None:
            x = self.project_out_dim(x)
        return x, {"attn": attn, "inner_states": inner_states}

    def _recomputes(self) -> bool:
        """Whether layers run twice, first without gradients (``--checkpoint-activations``)."""
        return self.training and self.cfg.checkpoint_activations

    def _to_source(
        self, weights: Any, heads: int | None, memory: int, static: int, like: Tensor
    ) -> Tensor:
        """Attention of the target's text to the source's, averaged over heads: B x T x S.

        Args:
            weights: H x B x (m+T) x (m'+S+N), or what computes them.
            heads: so many only.
            memory: m.
            static: N, keys that no position has, the last.
            like: whose precision it gets.
        """
        weights = weights() if callable(weights) else weights
        weights = weights.float().to(like)
        end = weights.size(3) - static
        weights = weights[:heads].mean(dim=0)[:, memory:, self.source_memory_tokens : end]
        return weights.contiguous()  # fairseq's criterion takes a view

    def _embed(
        self, tokens: Tensor, incremental_state: State | None
    ) -> tuple[Tensor, Tensor | None]:
        """Embed the text (B x T x C; one step of it, if incremental) and memory's codes (m x C)."""
        positions = codes = None
        if self.embed_positions is not None:
            offset = 0
            numbered = tokens
            if self.memory is not None and self.memory.takes_positions:
                offset = self.memory.text_offset
                numbered = self.memory.numbered_through(tokens, self.padding_idx)
                if not self._has_cache(incremental_state):
                    codes = self.embed_positions(numbered[:1])[0, : self.memory.tokens]
            positions = self.embed_positions(numbered, incremental_state=incremental_state)
            if incremental_state is None:
                positions = positions[:, offset:]
        if incremental_state is not None:
            tokens = tokens[:, -1:]
            positions = None if positions is None else positions[:, -1:]
        with without_autocast(tokens.device):  # fairseq's adaptive input fails
            x = self.embed_scale * self.embed_tokens(tokens.contiguous())
        if self.quant_noise is not None:
            x = self.quant_noise(x)
        if self.project_in_dim is not None:
            x = self.project_in_dim(x)
        if positions is not None:
            x = x + positions
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return self.dropout_module(x), codes

    def _ancestry_mask(self, incremental_state: State, x: Tensor, beam: int) -> Tensor | None:
        """Note the new positions (``x``: T x B x C) and mask what their hypotheses did not write.

        Args:
            beam: K, hypotheses a sentence.

        Returns:
            G x 1 x (K*T) x (S*K), to be added to the scores; None where nothing is masked.
        """
        length, batch, _ = x.shape
        saved = self.get_incremental_state(incremental_state, "ancestry")
        places = extend_ancestry(saved and saved["places"], length, batch, beam, x)
        saved = {"places": places, "beam": beam}
        self.set_incremental_state(incremental_state, "ancestry", saved)
        return ancestry_mask(places, length, x.dtype) if beam > 1 or length > 1 else None

    def reorder_incremental_state_scripting(
        self, incremental_state: State, new_order: Tensor
    ) -> None:
        """Follow beam search: hypothesis i continues what hypothesis ``new_order[i]`` has written.

        Which sentences are left is found out once, for all layers.

        Raises:
            ValueError: a hypothesis would leave its sentence's beam.
        """
        saved = self.get_incremental_state(incremental_state, "ancestry")
        if not saved:
            return
        places, beam = saved["places"], saved["beam"]
        left = sentences_left(new_order, beam, places.size(0))
        places = places.flatten(0, 1)[new_order].unflatten(0, (-1, beam))
        self.set_incremental_state(incremental_state, "ancestry", {"places": places, "beam": beam})
        for module in self.modules():
            if isinstance(module, FusedAttention):
                module.keep(incremental_state, left)

    def _has_cache(self, incremental_state: State | None) -> bool:
        """Whether an earlier step has left its keys and values, memory's among them."""
        return incremental_state is not None and any(
            name.endswith("attn_state") for name in incremental_state
        )

    def max_positions(self) -> int:
        """Longest target, in tokens; memory that takes codes takes them from a learned table."""
        longest = super().max_positions()
        if self.memory is not None and self.memory.takes_positions:
            free = self.embed_positions.max_positions - self.memory.text_offset
            longest = min(longest, free)
        return longest
