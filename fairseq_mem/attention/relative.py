"""Transformer-XL's attention with relative positions (Dai et al. 2019, section 3.3), and memory.

With queries q, keys k and one sinusoidal code R_d for every distance d = i - j:

    score(i, j) = ((q_i + u) . k_j + (q_i + v) . W_r R_{i-j}) / sqrt(D)     both are text
    score(i, j) =  (q_i + u) . k_j                            / sqrt(D)     either is memory

Memory is at no distance from anything: it has no position term, and distances between words are
what they are without it. So a model's text reads on in its cache as if memory were not there, and
nothing but their vectors tells memory slots apart. Static keys (``controls``) are like memory.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.dropout import Dropout
from .controls import AttentionControls


def distance_codes(distances: Tensor, channels: int) -> Tensor:
    """Sinusoidal codes of distances (P), the sines and then the cosines: P x C, in float64."""
    powers = torch.arange(0, channels, 2, dtype=torch.float64, device=distances.device) / channels
    angles = distances.to(torch.float64).unsqueeze(1) * 10000**-powers
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :channels]


class RelativeAttention(nn.Module):
    """One layer's attention. Projections have no bias; u and v are the layer's own.

    Args:
        embed_dim: C.
        heads: H; D = C / H.
        dropout: of the attention weights.
        lesion: ``"no-read"``: text may not attend to memory; ``"zero-read"``: what it attends to
            memory is set to zero after the softmax.

    Attributes:
        recorder: given the weights of every call, H x B x (r+T+w) x (m+L+T+w+N) with the letters
            of :meth:`forward` and N static keys; None: nobody wants to see them.
        controls: a sink and N static keys and values, or None.
        lesioned_slots: the numbers of the read slots that the lesion is of; None: of all.
    """

    recorder: Callable[[Tensor], None] | None = None
    lesioned_slots: list[int] | None = None
    controls: AttentionControls | None

    def __init__(self, embed_dim: int, heads: int, dropout: float, lesion: str = "none") -> None:
        super().__init__()
        self.heads, self.head_dim, self.lesion = heads, embed_dim // heads, lesion
        self.controls = None
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.kv_proj = nn.Linear(embed_dim, 2 * embed_dim, bias=False)
        self.r_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.u = nn.Parameter(torch.empty(heads, self.head_dim))
        self.v = nn.Parameter(torch.empty(heads, self.head_dim))
        self.dropout_module = Dropout(dropout, module_name=type(self).__name__)
        for projection in (self.q_proj, self.kv_proj, self.r_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
        for bias in (self.u, self.v):
            nn.init.normal_(bias, std=0.02)

    def keys_values(self, x: Tensor) -> Tensor:
        """Keys and values of ``x`` (B x N x C), side by side: B x N x 2C."""
        return self.kv_proj(x)

    def positions(self, codes: Tensor) -> Tensor:
        """W_r R of codes (P x C), ready for :meth:`forward`: H x D x P."""
        return self.r_proj(codes).unflatten(1, (self.heads, self.head_dim)).permute(1, 2, 0)

    def forward(
        self, x: Tensor, kv: Tensor, positions: Tensor, memory: int, written: int, reading: int,
        free: bool,
    ) -> Tensor:  # fmt: skip
        """Attend from memory and text to the cache, memory and text.

        Text sees the read slots, the cache, and text up to itself. Read slots see the cache and
        read slots: all with ``free``, else those up to themselves. Write slots see everything.

        Args:
            x: B x (r+T+w) x C, the queries: read slots, text, write slots.
            kv: B x (m+L+T+w) x 2C: read slots, cache, text, write slots.
            positions: H x D x (L+T+1), of distances L+T (which nobody uses) down to 0.
            memory: m, read slots among the keys.
            written: w.
            reading: r, read slots among the queries: m or 0.
            free: whether read slots see later ones.

        Returns:
            B x (r+T+w) x C.
        """
        text = x.size(1) - reading - written  # T
        visible = kv.size(1) - written  # m+L+T: the keys that text may see
        past = visible - memory - text  # L
        q = self.q_proj(x).unflatten(2, (self.heads, self.head_dim)).permute(2, 0, 1, 3)
        k, v = kv.unflatten(2, (2, self.heads, self.head_dim)).permute(2, 3, 0, 1, 4)
        content = q + self.u[:, None, None]  # H x B x (r+T+w) x D, as k and v with their lengths
        parts = []  # outputs and, for a recorder, weights
        if reading > 0:
            seen = memory + past
            allowed = None if free else _causal_memory(memory, seen, x.device)
            parts.append(
                self._attend_content(
                    content[:, :, :reading], k[:, :, :seen], v[:, :, :seen], allowed
                )
            )
        parts.append(
            self._attend_text(
                content[:, :, reading : reading + text],
                q[:, :, reading : reading + text] + self.v[:, None, None],
                k[:, :, :visible],
                v[:, :, :visible],
                positions,
                memory,
            )
        )
        if written > 0:
            parts.append(self._attend_content(content[:, :, reading + text :], k, v, None))
        out = parts[0][0] if len(parts) == 1 else torch.cat([part for part, _ in parts], dim=2)
        if self.recorder is not None:
            whole = [self._spread(w, kv.size(1)) for _, w in parts if w is not None]
            self.recorder(torch.cat(whole, dim=2))
        return self.out_proj(out.permute(1, 2, 0, 3).flatten(2))

    def _spread(self, weights: Tensor, keys: int) -> Tensor:
        """Weights of the first keys and the static ones, as of all: H x B x T x (keys+N)."""
        static = 0 if self.controls is None else self.controls.static
        seen = weights.size(3) - static
        return torch.cat([F.pad(weights[..., :seen], (0, keys - seen)), weights[..., seen:]], dim=3)

    def _append_static(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the static pairs behind keys and values, H x B x S x D each."""
        if self.controls is None or self.controls.static == 0:
            return k, v
        k, v, _ = self.controls.append(k.transpose(0, 1), v.transpose(0, 1))
        return k.transpose(0, 1), v.transpose(0, 1)

    def _softmax(self, scores: Tensor) -> Tensor:
        """Of H x B x T x S, at least in float32."""
        precise = torch.promote_types(scores.dtype, torch.float32)
        if self.controls is None:
            return torch.softmax(scores, dim=3, dtype=precise)
        return self.controls.softmax(scores.to(precise).transpose(0, 1)).transpose(0, 1)

    def _attend_content(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Memory's attention, without positions; ``allowed`` is m x S, True where it may look."""
        dropout = self.dropout_module.p if self.dropout_module.active else 0.0
        controls = self.controls
        k, v = self._append_static(k, v)
        if controls is not None and allowed is not None:
            allowed = F.pad(allowed, (0, controls.static), value=True)
        if self.recorder is None and controls is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
            return out, None
        if self.recorder is None and controls is not None:
            q, k, v = (side.transpose(0, 1) for side in (q, k, v))
            return controls.attend(q, k, v, allowed, dropout).transpose(0, 1), None
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        weights = self._softmax(scores).to(v.dtype)
        return F.dropout(weights, dropout) @ v, weights

    def _attend_text(
        self, content: Tensor, placed: Tensor, k: Tensor, v: Tensor, positions: Tensor, memory: int
    ) -> tuple[Tensor, Tensor | None]:
        """The text's attention, H x B x T x D; ``content`` is q + u and ``placed`` is q + v."""
        heads, batch, text, size = content.shape
        scale = size**-0.5
        content = (content * scale).flatten(0, 1)  # (H*B) x T x D
        seen = k.size(2)
        span = seen - memory  # S = L+T
        k, v = self._append_static(k, v)
        k, v = k.flatten(0, 1), v.flatten(0, 1)  # (H*B) x (m+S+N) x D
        # One product for every distance (H x B*T x (S+1)), then shifted row by row: in memory row
        # i of the result, S wide, begins one place further left than row i of the product, S+1
        # wide. What this puts above the diagonal is of another row, and masked below.
        scores = (placed * scale).flatten(1, 2) @ positions
        scores = scores.view(heads * batch, text * (span + 1))[:, text:].unflatten(1, (text, span))
        scores = torch.baddbmm(scores, content, k[:, memory:seen].transpose(1, 2))
        later = torch.ones(text, text, dtype=torch.bool, device=k.device).triu(1)
        with torch.no_grad():  # the softmax gives no gradient where the weight is zero
            scores[:, :, span - text :].masked_fill_(later, float("-inf"))
        some = self.lesioned_slots
        unread = memory if self.lesion == "no-read" and some is None else 0
        if unread > 0:
            memory, v = 0, v[:, memory:]
        placeless = [k[:, :memory], k[:, seen:]]  # memory in front of the text, static keys behind
        if memory > 0 or k.size(1) > seen:
            front, behind = (content @ part.transpose(1, 2) for part in placeless)
            if self.lesion == "no-read" and some is not None:
                front[:, :, some] = float("-inf")
            scores = torch.cat([front, scores, behind], dim=2)
        weights = self._softmax(scores.unflatten(0, (heads, batch))).flatten(0, 1)
        if self.lesion == "zero-read" and memory > 0:
            lesioned = torch.arange(memory) if some is None else torch.tensor(some)
            weights = weights.index_fill(2, lesioned.to(weights.device), 0.0)
        weights = weights.to(v.dtype)
        out = (self.dropout_module(weights) @ v).unflatten(0, (heads, batch))
        if self.recorder is None:
            return out, None
        return out, F.pad(weights, (unread, 0)).unflatten(0, (heads, batch))


def _causal_memory(memory: int, seen: int, device: Any) -> Tensor:
    """m x (m+L), True where a slot may look: earlier slots, itself, all of the cache."""
    allowed = torch.ones(memory, seen, dtype=torch.bool, device=device)
    allowed[:, :memory] = allowed[:, :memory].tril()
    return allowed
