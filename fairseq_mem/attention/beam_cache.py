"""What attention keeps between the steps of incremental decoding.

fairseq moves every hypothesis's keys and values at every step, because beam search reorders the
hypotheses. Here they stay where they were written. In beam search (which the encoder's output
tells, see ``MemTransformerEncoder.reorder_encoder_out``) the hypotheses of one sentence attend to
the keys of all of them through a mask of their ancestry, and the source's keys and values are kept
once a sentence. Otherwise there is one hypothesis a "sentence", and reordering moves it.

Shapes: G sentences of K hypotheses each, B = G * K rows, S positions so far.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

FIRST_CAPACITY = 32


@dataclass
class BeamCache:
    """Keys and values that do not change between steps: those of the encoder's output.

    Attributes:
        keys, values: G x H x S x D.
        beam: K, the hypotheses of each sentence.
        padding: G x S, True where a key is padding, or None.
    """

    keys: Tensor
    values: Tensor
    beam: int
    padding: Tensor | None = None

    def select(self, sentences: Tensor) -> Self:
        """Keep these sentences (G' old numbers); move nothing else."""
        return replace(
            self,
            keys=self.keys.index_select(0, sentences),
            values=self.values.index_select(0, sentences),
            padding=None if self.padding is None else self.padding.index_select(0, sentences),
        )


@dataclass
class GrowingCache(BeamCache):
    """Those of the target's positions so far, each where it was written.

    Attributes:
        keys, values: G x H x (capacity, S or more) x K x D.
        padding: G x K x S, True where a key is padding; None while nothing is.
        length: S, positions written so far.
    """

    length: int = 0

    @classmethod
    def empty(cls, like: Tensor, beam: int) -> "GrowingCache":
        """Before the first step, whose keys are ``like``: T x B x H x D."""
        length, batch, heads, size = like.shape
        shape = (batch // beam, heads, max(FIRST_CAPACITY, 2 * length), beam, size)
        return cls(like.new_empty(shape), like.new_empty(shape), beam)

    def append(
        self, k: Tensor, v: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Write the new positions' keys and values behind the earlier ones.

        Args:
            k, v: T x B x H x D.
            padding: B x T, True at padding, or None.

        Returns:
            All keys and values, G x H x (S*K) x D: position by position, for each position one
            hypothesis after the other; and which keys are padding, G x (S*K), or None.
        """
        added = k.size(0)
        end = self.length + added
        if end > self.keys.size(2):
            self.keys = torch.cat([self.keys, torch.empty_like(self.keys)], dim=2)
            self.values = torch.cat([self.values, torch.empty_like(self.values)], dim=2)
        for buffer, new in ((self.keys, k), (self.values, v)):
            places = new.unflatten(1, (-1, self.beam)).permute(1, 3, 0, 2, 4)
            buffer[:, :, self.length : end] = places
        self._append_padding(padding, added)
        self.length = end
        masked = None if self.padding is None else self.padding.transpose(1, 2).flatten(1)
        whole = (buffer[:, :, :end].flatten(2, 3) for buffer in (self.keys, self.values))
        return next(whole), next(whole), masked

    def _append_padding(self, padding: Tensor | None, added: int) -> None:
        """Note which of the new positions are padding; beam search has none."""
        if self.padding is None and padding is None:
            return
        shape = (self.keys.size(0), self.beam)
        old, new = self.padding, padding
        if old is None:
            old = self.keys.new_zeros(*shape, self.length, dtype=torch.bool)
        if new is None:
            new = old.new_zeros(*shape, added)
        self.padding = torch.cat([old, new.bool().view(*shape, added)], dim=2)


def expect(holds: Tensor, message: str) -> None:
    """Refuse to go on if ``holds`` (one boolean) is False, without waiting for a GPU to know it.

    Raises:
        ValueError: it is, on a CPU. A GPU stops by itself, a little later.
    """
    if holds.device.type != "cpu":
        torch._assert_async(holds, message)
    elif not holds:
        raise ValueError(message)


def sentences_left(new_order: Tensor, beam: int, count: int) -> Tensor | None:
    """Which of ``count`` sentences ``new_order`` (B' old rows) names; None if all, in their order.

    Beam search drops sentences and keeps the others' order, so that in a beam their number tells
    whether all are there, and nobody has to wait for a GPU to compare them.

    Returns:
        The old numbers, G'.

    Raises:
        ValueError: a hypothesis would leave its sentence's beam (see :func:`expect`).
    """
    sentences = new_order.view(-1, beam).div(beam, rounding_mode="floor")
    first = sentences[:, :1]
    complete = len(sentences) == count
    if beam > 1 and complete:
        first = torch.arange(count, device=new_order.device).unsqueeze(1)
    expect(
        (sentences == first).all(),
        f"new_order moves hypotheses from one sentence to another, with beams of {beam}",
    )
    if beam == 1 and complete and new_order.device.type == "cpu":  # where asking costs nothing
        complete = torch.equal(new_order, torch.arange(count))
        return None if complete else new_order
    return None if beam > 1 and complete else first.squeeze(1)


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
