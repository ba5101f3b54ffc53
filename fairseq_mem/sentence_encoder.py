"""The encoder of a sentence encoder: memory in front of a text that begins with <s>."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import MemTransformerEncoder

BERT_STD = 0.02  # of the weights with which a BERT begins (fairseq's init_bert_params)


class MemSentenceEncoder(MemTransformerEncoder):
    """:class:`MemTransformerEncoder`, with BERT's segments and the authors' positions.

    With ``--memory-positions`` <s> keeps the first position, memory takes the next m, and the text
    behind <s> is numbered on from there: ``[CLS] mem_1 .. mem_m text``.

    Args:
        cfg: fairseq's ``TransformerConfig`` with our options.
        dictionary: of the text.
        embed_tokens: its embedding.
        has_reader: somebody reads memory behind the last layer.
    """

    def __init__(self, cfg: Any, dictionary: Any, embed_tokens: Any, has_reader: bool) -> None:
        if cfg.memory_init_std is None:  # of words, positions and segments, unless they are normed
            parts = 2 + (cfg.memory_segments > 0)
            cfg.memory_init_std = 1.0 if cfg.layernorm_embedding else BERT_STD * sqrt(parts)
        super().__init__(cfg, dictionary, embed_tokens, has_reader)
        self.end = dictionary.eos()
        self.embed_segments = None
        if cfg.memory_segments > 0:
            self.embed_segments = nn.Embedding(cfg.memory_segments, embed_tokens.embedding_dim)

    def forward_embedding(
        self, src_tokens: Tensor, token_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embed the text (B x T); see the base class."""
        if self.embed_segments is not None:
            if token_embedding is None:
                token_embedding = self.embed_tokens(src_tokens)
            token_embedding = token_embedding + self.embed_segments(self.segments(src_tokens))
        return super().forward_embedding(src_tokens, token_embedding)

    def segments(self, src_tokens: Tensor) -> Tensor:
        """The number of each token's segment, B x T: how many </s> are in front of it."""
        assert self.embed_segments is not None
        ends = src_tokens.eq(self.end).long()
        before = ends.cumsum(dim=1) - ends
        return before.clamp(max=self.embed_segments.num_embeddings - 1)

    def _codes(self, src_tokens: Tensor) -> Tensor:
        """Position codes of memory and text, B x (text_offset+T) x C: <s> has the first code."""
        codes = super()._codes(src_tokens)
        last = self.memory.text_offset + 1
        return torch.cat([codes[:, 1:last], codes[:, :1], codes[:, last:]], dim=1)


def embedded_std(state: dict[str, Any], name: str) -> float | None:
    """The standard deviation of the embedded text of a checkpoint, as far as its weights tell.

    Behind a layer norm a channel has mean b and variance w^2 over tokens. Without one the scale is
    that of words and positions together.

    Args:
        state: the checkpoint's parameters.
        name: of the encoder in it.

    Returns:
        None if the checkpoint has no such encoder.
    """
    norm = [state.get(f"{name}.layernorm_embedding.{part}") for part in ("weight", "bias")]
    if norm[0] is not None:
        return sqrt(sum(float(part.float().square().mean()) for part in norm if part is not None))
    tables = [state.get(f"{name}.{table}.weight") for table in ("embed_tokens", "embed_positions")]
    if tables[0] is None:
        return None
    return sqrt(sum(float(table.float().var()) for table in tables if table is not None))
