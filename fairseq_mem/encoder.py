"""fairseq's Transformer encoder with memory in front of the text.

The encoder knows how many memory slots there are; which of them attends to whom is the layer's
business (``updates``). In a document (``--memory-recurrence``) a sentence's memory begins as what
the sentence before has handed on (``streaming/carry.py``).
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from fairseq.models.transformer import TransformerEncoderBase
from torch import Tensor, nn

from .attention.beam_cache import expect, sentences_left
from .attention.fused import spare_layers
from .layers import wrap_layer
from .memory import memory_for
from .streaming.carry import carry_for
from .training.dropout import use_fast_dropout
from .updates import UPDATES

logger = logging.getLogger(__name__)


class MemTransformerEncoder(TransformerEncoderBase):
    """Encodes (m+T) positions and returns them all: the decoder reads memory and text alike.

    Args:
        cfg: fairseq's ``TransformerConfig`` with our options.
        dictionary: of the text.
        embed_tokens: its embedding.
        has_reader: somebody reads memory behind the last layer, so that it must update it.

    Attributes:
        beam_size: how many hypotheses may read each sentence at once (``model.set_beam_size``).
        recurrent: whether memory may be handed on from sentence to sentence.
    """

    beam_size = 1

    def __init__(
        self, cfg: Any, dictionary: Any, embed_tokens: Any, has_reader: bool = True
    ) -> None:
        self.update = UPDATES[cfg.memory_update]
        self.updates_last = has_reader or not self.update.needs_reader
        self._layers_built = 0
        super().__init__(cfg, dictionary, embed_tokens)
        updates = self.num_layers if self.updates_last else self.num_layers - 1
        self.controller = self.update.shared_controller(cfg) if updates > 0 else None
        self.memory = memory_for(cfg, cfg.memory_tokens, embed_tokens.embedding_dim)
        self.recurrent = getattr(cfg, "memory_recurrence", 0) > 0 and cfg.memory_tokens > 0
        self.carry = carry_for(cfg, embed_tokens.embedding_dim)
        spare_layers(self.layers, cfg)
        use_fast_dropout(self)

    def build_encoder_layer(self, cfg: Any) -> Any:
        """Hook of fairseq's constructor."""
        self._layers_built += 1
        unread = self._layers_built == cfg.encoder.layers and not self.updates_last
        kind: Any = self.update  # only those that need a reader know that they may have none
        layer = kind(cfg, has_reader=False) if unread else kind(cfg)
        return wrap_layer(layer, cfg)

    def forward_embedding(
        self, src_tokens: Tensor, token_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embed the text (B x T), without memory.

        Returns:
            The finished embedding and the scaled look-up alone, both B x T x C.
        """
        if not self.memory.takes_positions:
            return super().forward_embedding(src_tokens, token_embedding)
        if token_embedding is None:
            token_embedding = self.embed_tokens(src_tokens)
        embed = self.embed_scale * token_embedding
        x = embed + self._codes(src_tokens)[:, self.memory.text_offset :]
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        x = self.dropout_module(x)
        if self.quant_noise is not None:
            x = self.quant_noise(x)
        return x, embed

    def _codes(self, src_tokens: Tensor) -> Tensor:
        """Position codes of memory and text: B x (text_offset+T) x C."""
        return self.embed_positions(self.memory.numbered_through(src_tokens, self.padding_idx))

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
        steps: Sequence[int] | None = None,
        memory: Mapping[nn.Module, Tensor] | None = None,
    ) -> dict[str, list[Any]]:
        """Encode a batch.

        Args:
            src_tokens: B x T, padded with the dictionary's padding symbol on either side.
            src_lengths: not used; fairseq passes it.
            return_all_hiddens: also return each layer's output.
            token_embeddings: B x T x C, instead of looking ``src_tokens`` up.
            steps: the batch is D documents, the first sentences of all of them first, then the
                second of those that have one, and so on; here is how many there are of each, never
                more than of the one before. Memory is handed on along a document.
            memory: in place of the trained vectors, what each sentence's memory begins as,
                m x B x C, under this encoder (an ensemble has several).

        Returns:
            fairseq's dictionary of lists, each with one tensor or more:

            - ``encoder_out``: (m+T) x B x C, memory first; see :meth:`split_memory`
            - ``encoder_padding_mask``: B x (m+T), True at padding; memory is never padding
            - ``encoder_embedding``: B x T x C, the text's alone
            - ``encoder_states``: the input and each layer's output, (m+T) x B x C
            - ``src_lengths``: B x 1, of the text alone
            - ``has_padding``: not a tensor but whether there is any: where there is none, attention
              gets no mask, and torch may choose its fastest kernel
        """
        padding = src_tokens.eq(self.padding_idx)
        embedded, embedding = self.forward_embedding(src_tokens, token_embeddings)
        embedded = embedded.masked_fill(padding.unsqueeze(-1), 0.0).transpose(0, 1)
        codes = None
        if self.memory.takes_positions:
            codes = self._codes(src_tokens[:1])[0, : self.memory.tokens]
        layer_padding = self.memory.prepend_padding(padding)
        has_padding = bool(padding.any())
        mask = layer_padding if has_padding else None
        carried = None if memory is None else memory[self]
        if not steps or not self.recurrent:
            x, states = self._run(
                self.memory.prepend(embedded, codes, carried), mask, return_all_hiddens
            )
        else:
            parts: list[Tensor] = []
            states_of_parts: list[list[Tensor]] = []
            for start, stop in pairwise(accumulate(steps, initial=0)):
                rows = embedded[:, start:stop]
                if carried is None:
                    carried = self.first_memory(rows)
                if parts:
                    carried = self.hand_on(carried, parts[-1])[:, : stop - start]
                part, states = self._run(
                    self.memory.prepend(rows, codes, carried),
                    None if mask is None else mask[start:stop],
                    return_all_hiddens,
                )
                parts.append(part)
                states_of_parts.append(states)
            x = torch.cat(parts, dim=1)
            states = [torch.cat(of_layer, dim=1) for of_layer in zip(*states_of_parts, strict=True)]
        if self.training and self.carry is not None:
            x = x + self.carry.nothing()
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [layer_padding],
            "encoder_embedding": [embedding],
            "encoder_states": states,
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [(~padding).sum(dim=1, keepdim=True, dtype=torch.int32)],
            "has_padding": [has_padding],
        }

    def _run(
        self, x: Tensor, mask: Tensor | None, return_all_hiddens: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The layers and the norm behind them, over memory and text ((m+T) x B x C).

        Args:
            x: the input.
            mask: B x (m+T), True at padding; None where there is none.
            return_all_hiddens: whether the states are wanted.

        Returns:
            The output, and the input with each layer's output (none unless they are wanted).
        """
        shared = {} if self.controller is None else {"controller": self.controller}
        states = [x] if return_all_hiddens else []
        for layer in self.layers:
            x = layer(x, encoder_padding_mask=mask, **shared)
            if return_all_hiddens:
                states.append(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x, states

    def first_memory(self, like: Tensor) -> Tensor:
        """What memory begins as at a document's start: m x B x C.

        Args:
            like: any number of positions x B x C.
        """
        return self.memory.prepend(like[:0])

    def hand_on(self, before: Tensor, encoded: Tensor) -> Tensor:
        """What the next sentences' memory begins as: m x B x C.

        Args:
            before: m x B x C, what these sentences' memory began as.
            encoded: (m+T) x B x C, ``encoder_out`` of these sentences.
        """
        written = encoded[: self.memory.tokens]
        return written if self.carry is None else self.carry(before.to(written), written)

    def reorder_encoder_out(
        self, encoder_out: dict[str, list[Any]], new_order: Tensor
    ) -> dict[str, list[Any]]:
        """Follow beam search; the hypotheses of a sentence go on sharing one copy of it.

        Args:
            encoder_out: of G sentences, or of B rows.
            new_order: B' old rows.
        """
        beam = self.beam_size
        rows = encoder_out["encoder_out"][0].size(1)
        padded = {key: encoder_out[key] for key in ("has_padding",) if key in encoder_out}
        if "beam" in encoder_out:
            (beam,) = encoder_out["beam"]
            left = sentences_left(new_order, beam, rows)
            if left is not None:
                encoder_out = super().reorder_encoder_out(encoder_out, left)
        elif beam == 1 or len(new_order) != rows * beam:  # a search of another beam size
            return {**super().reorder_encoder_out(encoder_out, new_order), **padded}
        else:
            expected = torch.arange(rows, device=new_order.device).unsqueeze(1)
            expect(
                (new_order.view(rows, beam) == expected).all(),
                f"new_order does not give each of {rows} sentences {beam} hypotheses",
            )
        return {**encoder_out, **padded, "beam": [beam]}

    def split_memory(self, encoder_out: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Take :meth:`forward`'s result apart: final memory (m x B x C) and text (T x B x C)."""
        x = encoder_out["encoder_out"][0]
        return x[: self.memory.tokens], x[self.memory.tokens :]

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> dict[str, Any]:
        """Warm start: complete a checkpoint of a model with another update, or without memory."""
        super().upgrade_state_dict_named(state_dict, name)
        if self.update.warm_start(state_dict, name, self._unread_layer(name)):
            logger.warning(
                f"the checkpoint has no memory controller for update {self.cfg.memory_update!r}: "
                "it begins as a copy of the encoder's own layers"
            )
        return state_dict

    def _unread_layer(self, name: str) -> str:
        """The name, in a checkpoint, of the layer that updates no memory; empty for none."""
        if self.updates_last:
            return ""
        # --encoder-layers-to-keep takes its choice of the checkpoint's layers afterwards
        kept = getattr(self.cfg, "encoder_layers_to_keep", None)
        last = max(map(int, kept.split(","))) if kept else self.num_layers - 1
        return f"{name}.layers.{last}"

    def max_positions(self) -> int:
        """Longest text, in tokens; memory that takes codes takes them from a learned table."""
        longest = super().max_positions()
        if self.memory.takes_positions:
            free = self.embed_positions.max_positions - self.memory.text_offset
            longest = min(longest, free)
        return longest
