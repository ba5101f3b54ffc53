"""What attention keeps between the steps of incremental decoding.

fairseq moves every hypothesis's keys and values at every step, because beam search reorders the
hypotheses. Here they stay where they were written. In beam search (which the encoder's output
tells, see ``MemTransformerEncoder.reorder_encoder_out``) the hypotheses of one sentence attend to
the keys of all of them through a mask of their ancestry, and the source's keys and values are kept
once a sentence. Otherwise there is one hypothesis a "sentence", and reordering moves it.

Shapes: G sentences of K hypotheses each, B = G * K rows, S positions so far.
"""

from typing import Any

import torch
from torch import Tensor

Saved = dict[str, Any]
FIRST_CAPACITY = 32


def append(saved: Saved | None, k: Tensor, v: Tensor, beam: int) -> tuple[Saved, Tensor, Tensor]:
    """Write the new positions' keys and values behind the earlier ones.

    Args:
        saved: what the last step left, or None.
        k, v: T x B x H x D.
        beam: K.

    Returns:
        What to save, and all keys and values, G x H x (S*K) x D: position by position, for each
        position one hypothesis after the other.
    """
    length, batch, heads, size = k.shape
    if not saved:
        shape = (batch // beam, heads, max(FIRST_CAPACITY, 2 * length), beam, size)
        saved = {
            "keys": k.new_empty(shape),
            "values": v.new_empty(shape),
            "beam": beam,
            "length": 0,
        }
    start, end = saved["length"], saved["length"] + length
    whole = []
    for name, new in (("keys", k), ("values", v)):
        buffer = saved[name]
        if end > buffer.size(2):
            buffer = torch.cat([buffer, torch.empty_like(buffer)], dim=2)
        buffer[:, :, start:end] = new.view(length, -1, beam, heads, size).permute(1, 3, 0, 2, 4)
        saved[name] = buffer
        whole.append(buffer[:, :, :end].flatten(2, 3))
    saved["length"] = end
    return saved, whole[0], whole[1]


def append_padding(saved: Saved, padding: Tensor | None, added: int) -> Tensor | None:
    """Note which of the new positions are padding; beam search has none.

    Args:
        padding: B x T, True at padding, or None.
        added: T.

    Returns:
        G x (S*K), True where a key is padding, or None.
    """
    old = saved.get("padding")  # G x K x S
    if old is None and padding is None:
        return None
    sentences, beam = saved["keys"].size(0), saved["beam"]
    if old is None:
        old = saved["keys"].new_zeros(sentences, beam, saved["length"] - added, dtype=torch.bool)
    new = old.new_zeros(sentences, beam, added) if padding is None else padding.bool()
    saved["padding"] = torch.cat([old, new.view(sentences, beam, added)], dim=2)
    return saved["padding"].transpose(1, 2).flatten(1)


def sentences_of(new_order: Tensor, beam: int) -> Tensor:
    """Which sentences are left: the old numbers, G'; ``new_order`` is B' old rows.

    Raises:
        ValueError: a hypothesis would leave its sentence's beam.
    """
    sentences = new_order.view(-1, beam).div(beam, rounding_mode="floor")
    if not (sentences == sentences[:, :1]).all():
        raise ValueError(
            f"new_order moves hypotheses from one sentence to another, with beams of {beam}"
        )
    return sentences[:, 0]


def all_there(sentences: Tensor, count: int) -> bool:
    """Whether ``sentences`` are 0 ... ``count`` - 1 in their order, so that nothing need move."""
    return torch.equal(sentences, torch.arange(count, device=sentences.device))


def select_sentences(saved: Saved, new_order: Tensor) -> Saved:
    """Keep the sentences that ``new_order`` (B' old rows) still names; move nothing else."""
    sentences = sentences_of(new_order, saved["beam"])
    if all_there(sentences, saved["keys"].size(0)):
        return saved
    return {
        name: value.index_select(0, sentences) if torch.is_tensor(value) else value
        for name, value in saved.items()
    }


def extend_ancestry(
    ancestry: Tensor | None, added: int, batch: int, beam: int, like: Tensor
) -> Tensor:
    """Each hypothesis's new positions are written in its own place.

    Args:
        ancestry: G x K x S, in whose place a hypothesis's earlier positions were written; None
            in the first step.
        added: number of new positions.

    Returns:
        G x K x (S+added).
    """
    own = torch.arange(beam, device=like.device).view(1, beam, 1).expand(batch // beam, -1, added)
    return own if ancestry is None else torch.cat([ancestry, own], dim=2)


def ancestry_mask(ancestry: Tensor, added: int, dtype: torch.dtype) -> Tensor:
    """What the newest positions of each hypothesis may attend to: its ancestors, and causally.

    Args:
        ancestry: G x K x S.
        added: how many of the S positions are queries.

    Returns:
        G x 1 x (K*added) x (S*K), 0 where a query may attend and -inf where not.
    """
    sentences, beam, length = ancestry.shape
    places = torch.arange(beam, device=ancestry.device)
    allowed = (ancestry.unsqueeze(-1) == places).unsqueeze(2)  # G x K x 1 x S x K
    if added > 1:
        times = torch.arange(length, device=ancestry.device)
        past = times[None, :] <= times[length - added :, None]  # added x S
        allowed = allowed & past[None, None, :, :, None]
    mask = torch.zeros(allowed.shape, dtype=dtype, device=ancestry.device)
    mask.masked_fill_(~allowed, float("-inf"))
    return mask.view(sentences, 1, beam * added, length * beam)
