"""Transformer-XL with memory, one row, one head, one position at a time."""

import math

import torch
from torch import Tensor

from helpers.references.documents import gated


def code(distance: int, channels: int) -> Tensor:
    """The sinusoidal code of one distance: the sines, then the cosines."""
    angles = [distance / 10000 ** (2 * n / channels) for n in range(channels // 2)]
    return torch.tensor(
        [math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64
    )


def may_attend(query: tuple[str, int], key: tuple[str, int], free: bool) -> bool:
    """Whether a position sees another; both are (what it is, its number)."""
    (what, number), (kind, other) = query, key
    if what == "write":
        return True
    if what == "read":
        return kind == "past" or (kind == "read" and (free or other <= number))
    return kind in ("read", "past") or (kind == "text" and other <= number)


def attend(attention, read, past, text, write, free: bool, drop_memory: bool = False):
    """What read slots, text and write slots (each N x C) get from attention.

    With ``drop_memory`` the text's weights on memory are zeroed after the softmax. Everybody sees
    the static keys of the attention's controls, and the sink takes its share.
    """
    controls = attention.controls
    heads, size = attention.heads, attention.head_dim
    channels = heads * size
    key_weight, value_weight = attention.kv_proj.weight.split(channels)
    keys = [
        ((kind, number), state)
        for kind, states in (("read", read), ("past", past), ("text", text), ("write", write))
        for number, state in enumerate(states)
    ]
    outputs = []
    for query, state in keys:
        if query[0] == "past":
            continue
        mixed = torch.zeros(channels, dtype=text.dtype)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            q = (attention.q_proj.weight @ state)[part]
            exponents = {}
            for n, (key, source) in enumerate(keys):
                if not may_attend(query, key, free):
                    continue
                score = (q + attention.u[h]) @ (key_weight @ source)[part]
                if query[0] == "text" and key[0] in ("past", "text"):
                    where = len(past) + query[1]
                    distance = where - (key[1] if key[0] == "past" else len(past) + key[1])
                    placed = attention.r_proj.weight @ code(distance, channels)
                    score = score + (q + attention.v[h]) @ placed[part]
                exponents[n] = torch.exp(score / math.sqrt(size))
            total = sum(exponents.values())
            for n in range(controls.static if controls is not None else 0):
                score = (q + attention.u[h]) @ controls.static_keys[h, n]
                total += torch.exp(score / math.sqrt(size))
            if controls is not None and controls.sink is not None:
                total += torch.exp(controls.sink[h])
            for n in range(controls.static if controls is not None else 0):
                score = (q + attention.u[h]) @ controls.static_keys[h, n]
                weight = torch.exp(score / math.sqrt(size)) / total
                mixed[part] += weight * controls.static_values[h, n]
            for n, exponent in exponents.items():
                if drop_memory and query[0] == "text" and keys[n][0][0] == "read":
                    continue
                mixed[part] += exponent / total * (value_weight @ keys[n][1])[part]
        outputs.append(attention.out_proj.weight @ mixed)
    out = torch.stack(outputs)
    return out.split([len(read), len(text), len(write)])


def layer(module, read, past, text, write, free: bool, drop_memory: bool = False):
    """One layer: the new read slots, text and write slots."""
    pre = module.normalize_before

    def norm(x: Tensor) -> Tensor:
        return module.self_attn_layer_norm(x) if pre else x

    changes = attend(
        module.self_attn, norm(read), norm(past), norm(text), norm(write), free, drop_memory
    )
    results = []
    for states, change in zip((read, text, write), changes, strict=True):
        a = states + change
        if not pre:
            a = module.self_attn_layer_norm(a)
        inner = module.final_layer_norm(a) if pre else a
        h = a + module.fc2(torch.relu(module.fc1(inner)))
        results.append(h if pre else module.final_layer_norm(h))
    return results


def stream(decoder, segments: list[Tensor], drop_memory: bool = False) -> Tensor:
    """The features of one row's segments (each T words), read in turn: N x C."""
    dim = decoder.embed_dim
    nothing = torch.zeros(0, dim, dtype=torch.float64)
    trained = nothing if decoder.memory is None else decoder.memory.weight
    memory, caches = trained, [nothing for _ in decoder.layers]
    features = []
    for words in segments:
        text = decoder.embed_tokens(words) * math.sqrt(dim)
        read, write = memory, memory if decoder.recurrent else nothing
        for number, module in enumerate(decoder.layers):
            past = caches[number]
            kept = torch.cat([past, text])
            caches[number] = kept[len(kept) - min(len(kept), decoder.cache_length) :]
            read, text, write = layer(
                module, read, past, text, write, decoder.recurrent, drop_memory
            )
        if decoder.layer_norm is not None:
            text, write = decoder.layer_norm(text), decoder.layer_norm(write)
        features.append(text)
        memory = gated(decoder.carry, memory, write) if decoder.recurrent else trained
    return torch.cat(features)
