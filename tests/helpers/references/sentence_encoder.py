"""A sentence encoder written as loops: embedding, layers, heads."""

import torch
from torch import Tensor

from helpers.references.layers import bottleneck_update, read


def embedded(encoder, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the first layer sees, (m+T) x B x C, and padding, B x (m+T), True there.

    ``tokens`` (B x T) are padded on the right.
    """
    memory, pad = encoder.memory, encoder.padding_idx
    m, offset = memory.tokens, memory.text_offset
    batch, length = tokens.shape
    positions = encoder.embed_positions.weight[pad + 1 :]
    x = torch.zeros(m + length, batch, encoder.embed_tokens.embedding_dim, dtype=positions.dtype)
    padding = torch.zeros(batch, m + length, dtype=torch.bool)
    for b in range(batch):
        for slot in range(m):
            x[slot, b] = memory.weight[slot]
            if memory.takes_positions:  # behind <s>, which has the first
                x[slot, b] += positions[slot + 1]
        ends = 0
        for t in range(length):
            word = int(tokens[b, t])
            if word == pad:
                padding[b, m + t] = True
                continue
            vector = encoder.embed_tokens.weight[word] + positions[t if t == 0 else t + offset]
            if encoder.embed_segments is not None:
                last = encoder.embed_segments.num_embeddings - 1
                vector = vector + encoder.embed_segments.weight[min(ends, last)]
            ends += word == encoder.end
            if encoder.layernorm_embedding is not None:
                vector = encoder.layernorm_embedding(vector)
            x[m + t, b] = vector
    return x, padding


def encoded(encoder, tokens: Tensor, update: str, has_reader: bool, unread: bool) -> Tensor:
    """The last layer's output, (m+T) x B x C; the activation is relu.

    Args:
        update: ``--memory-update``.
        has_reader: the last layer updates memory.
        unread: text may not read memory.
    """
    x, padding = embedded(encoder, tokens)
    m = encoder.memory.tokens
    for number, layer in enumerate(encoder.layers, start=1):
        controller = encoder.controller or getattr(layer, "controller", None)

        def text_may_attend(b: int, t: int, s: int) -> bool:
            return not bool(padding[b, s]) and (s >= m or not unread)

        def memory_may_attend(b: int, t: int, s: int) -> bool:
            return not bool(padding[b, s])

        if update == "bottleneck":
            x = bottleneck_update(layer, controller, x, padding, m)
            continue
        memory, text = x[:m], read(layer, x[m:], x, text_may_attend)
        if update == "shared":
            memory = read(layer, memory, x, memory_may_attend)
        elif has_reader or number < len(encoder.layers):
            memory = read(controller, memory, x, memory_may_attend)
        x = torch.cat([memory, text])
    return x if encoder.layer_norm is None else encoder.layer_norm(x)


def memory_head(head, memory: Tensor) -> Tensor:
    """The authors' mean_max_pool: tanh(W [max(memory); mean(memory)]); ``memory`` is m x B x C."""
    slots, batch, channels = memory.shape
    rows = []
    for b in range(batch):
        pooled = [max(memory[slot, b, c] for slot in range(slots)) for c in range(channels)]
        pooled += [
            sum(memory[slot, b, c] for slot in range(slots)) / slots for c in range(channels)
        ]
        rows.append(head.out_proj(torch.tanh(head.dense(torch.stack(pooled)))))
    return torch.stack(rows)
