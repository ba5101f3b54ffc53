"""A trained translation model as CTranslate2's specification, with its memory as words.

Why it can be done, and what the folder holds in the end, is told in `export`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

NEVER = -30000.0  # added to a slot's logit; within the range of float16
# fairseq's names and those of CTranslate2's enumeration
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_accurate": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "tanh": "Tanh",
}


class Memory(NamedTuple):
    """Memory as words."""

    source: list[str]  # in front of every source
    forced: list[str]  # of the target, after the start token
    text_end: str | None  # an end mark inside a source


def convert(model: Any, task: Any, quantization: str) -> tuple[Any, Memory]:
    """Return CTranslate2's specification of the model, quantised, and its memory as words."""
    from ctranslate2.converters import fairseq as converter
    from ctranslate2.specs import TransformerSpec, common_spec, transformer_spec

    encoder, decoder, cfg = model.encoder, model.decoder, model.cfg
    common = {
        "activation": common_spec.Activation[ACTIVATIONS[cfg.activation_fn]],
        "layernorm_embedding": cfg.layernorm_embedding,
    }
    spec = TransformerSpec(
        transformer_spec.TransformerEncoderSpec(
            encoder.num_layers,
            cfg.encoder.attention_heads,
            pre_norm=cfg.encoder.normalize_before,
            **common,
        ),
        transformer_spec.TransformerDecoderSpec(
            decoder.num_layers,
            cfg.decoder.attention_heads,
            pre_norm=cfg.decoder.normalize_before,
            no_final_norm=cfg.no_decoder_final_norm,
            **common,
        ),
    )
    converter.set_transformer_encoder(spec.encoder, encoder)
    converter.set_transformer_decoder(spec.decoder, decoder)
    for side, converted in ((encoder, spec.encoder), (decoder, spec.decoder)):
        table = _position_table(side)
        # half the file of a small model, and far more exact than the int8 that they are added to
        table = table.half() if quantization == "int8" else table
        converted.position_encodings.encodings = table.numpy()

    words, target_words = _words(task.source_dictionary), _words(task.target_dictionary)
    slots = _names("mem", _slots(encoder), {*words, *target_words})
    target_slots = _names("decoder-mem", _slots(decoder), {*words, *target_words})
    front, text_end = _slots(encoder), []
    if not slots:  # CTranslate2 would take an end mark of the text for the source's
        eos = task.source_dictionary.eos()
        front = encoder.embed_tokens.weight[eos : eos + 1]
        text_end = _names("text-end", front, {*words, *target_words})
    if encoder.embed_tokens is decoder.embed_tokens:  # one table for both, in the file too
        source = target = torch.cat([encoder.embed_tokens.weight, front, _slots(decoder)])
        source_vocabulary = target_vocabulary = [*words, *slots, *text_end, *target_slots]
    else:
        source = torch.cat([encoder.embed_tokens.weight, front])
        target = torch.cat([decoder.embed_tokens.weight, _slots(decoder)])
        source_vocabulary = [*words, *slots, *text_end]
        target_vocabulary = [*target_words, *target_slots]
    spec.encoder.embeddings[0].weight = source.numpy()
    spec.decoder.embeddings.weight = target.numpy()
    spec.register_source_vocabulary(source_vocabulary)
    spec.register_target_vocabulary(target_vocabulary)

    projection = decoder.output_projection.weight
    added = len(target_vocabulary) - len(target_words)
    if projection is decoder.embed_tokens.weight:
        spec.decoder.projection.weight = spec.decoder.embeddings.weight
    else:
        spec.decoder.projection.weight = torch.cat(
            [projection, projection.new_zeros(added, projection.size(1))]
        ).numpy()
    if added > 0:
        bias = projection.new_zeros(len(target_vocabulary))
        bias[-added:] = NEVER
        spec.decoder.projection.bias = bias.numpy()

    dictionary = task.target_dictionary
    end = dictionary[dictionary.eos()]
    spec.config.unk_token = dictionary[dictionary.unk()]
    # CTranslate2 puts no beginning in front of anything; but it would take one of the text for
    # its own, and a source of nothing else for empty.
    spec.config.bos_token = spec.config.eos_token = end
    spec.config.add_source_eos = True
    start, *forced = [*target_slots, end]
    spec.config.decoder_start_token = start
    spec.validate()
    spec.optimize(quantization=quantization)
    return spec, Memory(slots, forced, text_end[0] if text_end else None)


def _slots(side: Any) -> Tensor:
    """Memory as rows of the embedding table of encoder or decoder: m x C, m may be 0."""
    memory = getattr(side, "memory", None)
    if memory is None or memory.weight is None:
        return side.embed_tokens.weight[:0]
    return memory.weight / side.embed_scale


def _words(dictionary: Any) -> list[str]:
    """All words; refuse those of two rows, of which fairseq reads the last, CTranslate2 the first.

    fairseq allows them with ``#fairseq:overwrite``, also for its own marks.
    """
    words: list[str] = dictionary.symbols
    if len(dictionary.indices) < len(words):
        twice = next(w for number, w in enumerate(words) if dictionary.indices[w] != number)
        raise UserError(
            f"the dictionary has {twice!r} twice (#fairseq:overwrite), and CTranslate2 cannot tell "
            "the two apart: this model cannot be exported"
        )
    return words


def _names(kind: str, slots: Tensor, taken: set[str]) -> list[str]:
    """Words for memory slots (m x C) that no dictionary has."""
    names = [f"<{kind}-{number}>" for number in range(slots.size(0))]
    while not taken.isdisjoint(names):
        names = [f"<{name}>" for name in names]
    return names


def _position_table(side: Any) -> Tensor:
    """Position codes of memory and of the longest text of encoder or decoder: (m+T) x C."""
    memory, longest = getattr(side, "memory", None), side.max_positions()
    offset = 0 if memory is None else memory.text_offset
    # which words does not matter, only that they are no padding
    words = torch.full((1, offset + longest), side.padding_idx + 1)
    codes = side.embed_positions(words)[0]
    if memory is None:
        return codes
    if memory.takes_positions:
        front = codes[: memory.tokens]
    else:
        front = codes.new_zeros(memory.tokens, codes.size(1))
    return torch.cat([front, codes[offset:]])
