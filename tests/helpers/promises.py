"""What must hold of any model that fairseq-train builds, whatever its options (see the design)."""

import io
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from helpers.random_models import EXACT, dictionary

PAD, END = dictionary().pad(), dictionary().eos()
# through fairseq's own attention, whose softmax is in float32
NEARLY = dict(rtol=0, atol=1e-5)


def texts(random: Random, rows: int, longest: int, left: bool, first: int | None = None) -> Tensor:
    """B x T random texts that end in </s>, padded on one side; the first is the longest."""
    lengths = [longest, *(random.randint(1, longest) for _ in range(rows - 1))]
    tokens = torch.full((rows, longest), PAD)
    for row, length in enumerate(lengths):
        words = [random.randint(4, len(dictionary()) - 1) for _ in range(length - 1)] + [END]
        if first is not None:
            words[0] = first
        start = longest - length if left else 0
        tokens[row, start : start + length] = torch.tensor(words)
    return tokens


def shifted(target: Tensor) -> Tensor:
    """</s> in front of each text and its last word off, padding where it was."""
    rows = target.clone()
    for row in rows:
        real = row.ne(PAD)
        row[real] = torch.cat([torch.tensor([END]), row[real][:-1]])
    return rows


def other_word(random: Random, word: int) -> int:
    return random.choice([w for w in range(4, len(dictionary())) if w != word])


def padding_changes_nothing(read: Callable[..., Tensor], *sides: Tensor, **tolerance: float):
    """``read`` (of B x T texts each, to B x T x C of the last of them) is of each row alone."""
    whole = read(*sides)
    for row in range(len(whole)):
        alone = read(*(side[row][side[row].ne(PAD)][None] for side in sides))
        torch.testing.assert_close(whole[row][sides[-1][row].ne(PAD)], alone[0], **tolerance)


def no_text_sees_the_future(read: Callable[[Tensor], Tensor], tokens: Tensor, random: Random):
    """A word of every row of ``tokens`` (B x T) changes nothing in front of it, but something."""
    place = random.randrange(tokens.size(1))
    other = tokens.clone()
    for row in other:
        row[place] = other_word(random, int(row[place]))
    before, after = read(tokens), read(other)
    torch.testing.assert_close(before[:, :place], after[:, :place], **EXACT)
    assert not torch.allclose(before[:, place:], after[:, place:], rtol=0, atol=1e-12)


def step_by_step(model: Any, encode: Callable[[], Any], read: Callable, random: Random, beam: int):
    """Steps with caches give what the whole gives, also when hypotheses change their places.

    Args:
        encode: the encoder's result for G sentences, or None.
        read: of hypotheses (their sentences, and B x T) the whole's output, B x T x C.
        beam: K.
    """
    decoder, encoder_out, state = model.decoder, encode(), {}
    sentences = list(range(encoder_out["encoder_out"][0].size(1) if encoder_out else 3))
    if encoder_out:
        model.set_beam_size(beam)
        order = torch.arange(len(sentences)).repeat_interleave(beam)
        encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
    tokens = torch.full((len(sentences) * beam, 1), END)
    for step in range(5):
        if step > 0:
            left = sorted(random.sample(range(len(sentences)), max(1, len(sentences) - step // 3)))
            sentences = [sentences[number] for number in left]
            order = torch.tensor(
                [number * beam + random.randrange(beam) for number in left for _ in range(beam)]
            )
            tokens = tokens[order]
            decoder.reorder_incremental_state_scripting(state, order)
            if encoder_out:
                encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        kwargs = {"encoder_out": encoder_out} if encoder_out else {}
        found = decoder(tokens, incremental_state=state, **kwargs)[0]
        rows = [number for number in sentences for _ in range(beam)]
        torch.testing.assert_close(found, read(rows, tokens)[:, -1:], **NEARLY)
        new = [random.randint(4, len(dictionary()) - 1) for _ in rows]
        tokens = torch.cat([tokens, torch.tensor(new)[:, None]], dim=1)
    if encoder_out:
        model.set_beam_size(1)


def search_needs_no_cache(model: Any, source: Tensor, beam: int, **search: Any):
    """Beam search finds with caches what it finds without."""
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    found = []
    for cached in (False, True):
        generator = SequenceGenerator(
            [model], dictionary(), beam_size=beam, max_len_a=0, max_len_b=7, **search
        )
        if not cached:
            generator.model.has_incremental = False
            model.set_beam_size(1)
        found.append(generator.generate([model], sample))
    for plain, with_cache in zip(*found, strict=True):
        scores = [torch.stack([one["score"] for one in beams]) for beams in (plain, with_cache)]
        torch.testing.assert_close(*scores, rtol=0, atol=1e-4)
        for one, other in zip(plain, with_cache, strict=True):
            assert one["tokens"].tolist() == other["tokens"].tolist()
    model.set_beam_size(1)


def gradients(model: Any, loss: Callable[[], Tensor], seed: int = 1) -> dict[str, Tensor | None]:
    """Of all parameters that are trained, after one loss in training mode."""
    model.train().zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    value = loss()
    assert value.isfinite().all()
    value.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def gradients_reach(found: dict[str, Tensor | None], may_lack: Callable[[str], bool]):
    """All trained parameters, but those that fairseq's own model leaves out too, or drops.

    Those of ours must have one that is not zero; of fairseq's own some have zeros, a softmax does
    not see a constant added to all keys for one.
    """
    for name, grad in found.items():
        if grad is None:
            assert may_lack(name), f"{name} gets no gradient"
            continue
        assert grad.isfinite().all(), f"{name} gets a gradient that is not finite"
        ours = not {"memory", "controller", "controls"}.isdisjoint(name.split("."))
        if ours and not name.endswith("k_proj.bias") and not may_lack(name):
            assert grad.any(), f"{name} gets a gradient of zero"


def saved_and_loaded(model: Any, other: Any):
    """The state of a model, through a file, into another."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
