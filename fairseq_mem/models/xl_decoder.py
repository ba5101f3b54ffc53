"""Transformer-XL with memory tokens, reading a stream segment by segment.

Per segment, B rows side by side:

    [ read memory | cache | text | write memory ]      keys
    [ read memory |         text | write memory ]      queries

The cache holds each layer's last states of text, never memory; memory stands in front of every
segment anew. Without recurrence it is the trained vectors, under the causal mask, and there is no
write memory. With recurrence (Recurrent Memory Transformer, Bulatov, Kuratov, Burtsev 2022) read
and write memory begin as the same vectors, what write memory has become behind the last layer is
handed on (streaming/carry.py) as the next segment's memory, and memory sees all of its group.
"""

import logging
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from fairseq.models import FairseqDecoder
from torch import Tensor, nn

from ..attention.controls import controls_for
from ..attention.fused import spare_layers
from ..attention.relative import RelativeAttention, distance_codes
from ..literals import numbers_of
from ..memory import MemoryTokens
from ..precision import without_autocast
from ..streaming.carry import carry_for
from ..streaming.state import StreamState
from ..training.dropout import Dropout

logger = logging.getLogger(__name__)


class XLLayer(nn.Module):
    """Attention and feed-forward, post-norm as in the paper, or pre-norm."""

    def __init__(self, args: Any) -> None:
        super().__init__()
        dim, inner = args.decoder_embed_dim, args.decoder_ffn_embed_dim
        self.normalize_before = args.decoder_normalize_before
        self.self_attn = RelativeAttention(
            dim, args.decoder_attention_heads, args.attention_dropout, args.memory_lesion
        )
        self.self_attn.controls = controls_for(args, self.self_attn.heads, self.self_attn.head_dim)
        self.self_attn.lesioned_slots = numbers_of(args.memory_lesion_slots)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout_module = Dropout(args.dropout, module_name=type(self).__name__)
        self.activation_dropout_module = Dropout(
            args.activation_dropout, module_name=type(self).__name__
        )
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, past: Tensor | None, positions: Tensor, memory: int, written: int,
        keep_reading: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Update memory and text.

        Args:
            x: B x (m+T+w) x C: read slots, text, write slots.
            past: this layer's part of :attr:`StreamState.cache`, if there is any.
            positions: H x D x (L+T+1).
            memory: m.
            written: w: m with recurrence, or 0.
            keep_reading: whether anybody reads what the read slots become (not in the last layer).

        Returns:
            The updated positions, B x (m+T+w) x C, or without the read slots; and what the cache
            keeps of the text.
        """
        text = slice(memory, x.size(1) - written)
        norm = self.self_attn_layer_norm if self.normalize_before else nn.Identity()
        if self.training:
            source = x if past is None else torch.cat([x[:, :memory], past, x[:, memory:]], dim=1)
            kept = x[:, text]
            kv = self.self_attn.keys_values(norm(source))
        else:
            kv = self.self_attn.keys_values(norm(x))
            kept = kv[:, text]
            if past is not None:
                kv = torch.cat([kv[:, :memory], past, kv[:, memory:]], dim=1)
        reading = memory if keep_reading else 0
        x = x[:, memory - reading :]
        # with recurrence memory sees all of its group
        attended = self.self_attn(
            norm(x), kv, positions, memory, written, reading, free=written > 0
        )
        x = x + self.dropout_module(attended)
        x = x if self.normalize_before else self.self_attn_layer_norm(x)
        hidden = self.final_layer_norm(x) if self.normalize_before else x
        hidden = self.activation_dropout_module(F.relu(self.fc1(hidden)))
        x = x + self.dropout_module(self.fc2(hidden))
        return x if self.normalize_before else self.final_layer_norm(x), kept.detach()


class XLDecoder(FairseqDecoder):
    """The language model: segments of a stream in, logits (or features) of its text out.

    Args:
        args: the model's options.
        dictionary: of the words.
        embed_tokens: words to vectors of C.
        adaptive_softmax: fairseq's, or None for a softmax tied to ``embed_tokens``.
        memory: the memory tokens, or None.

    Attributes:
        streams: the state of the rows that are being read, in training (True) and in evaluation
            (False): validation leaves the state of training alone.
    """

    def __init__(
        self,
        args: Any,
        dictionary: Any,
        embed_tokens: Any,
        adaptive_softmax: nn.Module | None,
        memory: MemoryTokens | None,
    ) -> None:
        super().__init__(dictionary)
        self.embed_tokens = embed_tokens
        self.embed_dim = args.decoder_embed_dim
        self.memory = memory
        self.recurrent = args.memory_recurrence > 0 and memory is not None
        self.carry = carry_for(args, self.embed_dim)
        self.cache_length = args.cache_length
        self.clamp_distance = args.clamp_distance
        self.layers = nn.ModuleList(XLLayer(args) for _ in range(args.decoder_layers))
        spare_layers(self.layers, args)
        self.layer_norm = nn.LayerNorm(self.embed_dim) if args.decoder_normalize_before else None
        self.dropout_module = Dropout(args.dropout, module_name=type(self).__name__)
        self.adaptive_softmax = adaptive_softmax
        if adaptive_softmax is None:
            self.output_projection = nn.Linear(self.embed_dim, len(dictionary), bias=False)
            self.output_projection.weight = embed_tokens.weight
        self.streams: dict[bool, StreamState] = {}

    def forward(
        self, prev_output_tokens: Tensor, segment: int | None = None, position: int | None = None,
        features_only: bool = False, **unused: Any,
    ) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        """Read B x T words, segment by segment, and predict the word behind each.

        Args:
            prev_output_tokens: B x T; padding only at the end of a row's stream (nothing that
                counts comes behind it, so nothing has to be masked).
            segment: words a segment; default: all in one.
            position: of the first word in its row. 0 begins a stream; otherwise the call goes on
                where the last one in this mode ended, and what it leaves behind is kept for the
                next. None: a text of its own, of which nothing is kept.
            features_only: leave out the output projection.

        Returns:
            B x T x V (B x T x C for an adaptive softmax, or with ``features_only``), and nothing.
        """
        state = self._state(prev_output_tokens.size(0), position)
        features = []
        for part in prev_output_tokens.split(segment or prev_output_tokens.size(1), dim=1):
            read, state = self.read_segment(part, state)
            features.append(read)
        if position is not None:
            memory = None if state.memory is None else state.memory.detach()
            self.streams[self.training] = replace(state, memory=memory)
        x = features[0] if len(features) == 1 else torch.cat(features, dim=1)
        if self.training and self.carry is not None:
            x = x + self.carry.nothing()
        return x if features_only else self.output_layer(x), {}

    def read_segment(self, tokens: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Read one segment (B x T).

        Returns:
            The text's features (B x T x C) and the state behind it, in which the memory, not the
            cache, may have a gradient.
        """
        batch, length = tokens.shape
        with without_autocast(tokens.device):  # fairseq's adaptive input fails
            x = self.embed_dim**0.5 * self.embed_tokens(tokens)
        x = self.dropout_module(x)
        m = written = 0
        memory = None
        if self.memory is not None and self.memory.weight is not None:
            memory = state.memory
            if memory is None:
                memory = self.memory.weight.to(x).expand(batch, -1, -1)
            elif self.training and not memory.requires_grad:
                # carried over from the batch before: adds nothing, but torch's distributed
                # training stops where a parameter has no gradient
                memory = memory + 0.0 * self.memory.weight.to(x)
            m, written = memory.size(1), memory.size(1) if self.recurrent else 0
            x = torch.cat([memory, x, memory] if self.recurrent else [memory, x], dim=1)
        past = state.cache[0].size(1) if state.cache else 0
        positions = self._positions(past + length, x, state)
        cache = []
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            before = state.cache[number] if past > 0 else None
            x, kept = layer(x, before, positions[number], m, written, keep_reading=not last)
            cache.append(self._newest(before, kept))
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        handed_on = x[:, length:] if self.recurrent and m > 0 else None
        if handed_on is not None and self.carry is not None:
            handed_on = self.carry(memory, handed_on)
        state = StreamState(
            state.position + length,
            cache if self.cache_length > 0 else [],
            handed_on,
            [] if self.dropout_module.active else positions,  # dropout is drawn anew each time
        )
        return self.dropout_module(x[:, :length]), state

    def output_layer(self, features: Tensor, **unused: Any) -> Tensor:
        """Logits, B x T x V; an adaptive softmax takes the features as they are."""
        return features if self.adaptive_softmax is not None else self.output_projection(features)

    def _newest(self, before: Tensor | None, kept: Tensor) -> Tensor:
        """The last ``cache_length`` positions of both (B x . x C)."""
        if before is not None and kept.size(1) < self.cache_length:
            kept = torch.cat([before, kept], dim=1)
        # a copy: a view would hold on to all of it
        return kept[:, max(0, kept.size(1) - self.cache_length) :].contiguous()

    def _positions(self, span: int, x: Tensor, state: StreamState) -> list[Tensor]:
        """Of each layer, W_r R of the distances ``span`` down to 0: H x D x (span+1)."""
        if state.positions and state.positions[0].size(2) > span:
            return [known[:, :, -(span + 1) :] for known in state.positions]
        distances = torch.arange(span, -1, -1, device=x.device)
        if self.clamp_distance > 0:
            distances = distances.clamp(max=self.clamp_distance)
        codes = self.dropout_module(distance_codes(distances, self.embed_dim).to(x.dtype))
        return [cast(XLLayer, layer).self_attn.positions(codes) for layer in self.layers]

    def _state(self, rows: int, position: int | None) -> StreamState:
        """The state in which ``rows`` rows come to ``position``."""
        if not position:
            return StreamState()
        state = self.streams.get(self.training)
        if state is None or state.position != position or state.rows not in (None, rows):
            logger.warning(
                f"nothing is known of the {position} words before this segment: "
                "the cache and the memory begin empty"
            )
            return StreamState(position)
        # a checkpoint may come from another precision, device, cache length or number of slots
        like = next(self.parameters())
        length, memory = self.cache_length, state.memory
        slots = self.memory.tokens if self.memory is not None and self.recurrent else 0
        if memory is not None:
            memory = memory.to(like) if memory.size(1) == slots else None
        return StreamState(
            position,
            [t.to(like)[:, max(0, t.size(1) - length) :] for t in state.cache] if length else [],
            memory,
            state.positions,
        )
