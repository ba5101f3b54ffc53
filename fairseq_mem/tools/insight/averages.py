"""Averages of attention and of states over any number of sentences, in constant memory."""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .reader import Reading
from .views import CROSS, GROUPS, MEMORY, ORDER, TEXT, WRITTEN, View

READERS = ("memory", "text", "written")  # who attends: groups of rows
TENTHS = 10  # of the text, in which a slot's attention is told
OUTLIER = 2.0  # a state whose norm is so many times the mean of its sentence's text


def _one_hot(groups: Tensor, count: int) -> Tensor:
    """B x P group numbers as B x P x G, padding as zeros, in float64."""
    return F.one_hot(groups + 1, count + 1)[..., 1:].double()


def _readers(rows: Tensor) -> Tensor:
    """Which of READERS a row is: B x Q x R."""
    text = torch.isin(rows, torch.tensor(TEXT))
    return torch.stack([rows == MEMORY, text, rows == WRITTEN], dim=2).double()


class Mean(NamedTuple):
    """What one kind of rows of one head attends to, on average.

    Attributes:
        mass: share of its attention by group of columns, and last what no column gets (a sink's).
        uniform: what a reader would give who likes all allowed columns equally.
        entropy: of its weights, in bits; what no column gets is left out.
        uniform_entropy: that reader's.
        own: of memory's rows, what a slot gives to itself.
        rows: how many there were.
    """

    mass: dict[str, float]
    uniform: dict[str, float]
    entropy: float
    uniform_entropy: float
    own: float
    rows: int


class LayerSums:
    """Of one layer of one kind of attention."""

    def __init__(self, heads: int) -> None:
        groups, readers = len(GROUPS), len(READERS)
        self.mass = torch.zeros(heads, readers, groups, dtype=torch.float64)
        self.uniform = torch.zeros(readers, groups, dtype=torch.float64)
        self.entropy = torch.zeros(heads, readers, dtype=torch.float64)
        self.uniform_entropy = torch.zeros(readers, dtype=torch.float64)
        self.own = torch.zeros(heads, dtype=torch.float64)
        self.rows = torch.zeros(readers, dtype=torch.float64)
        # of every slot: what it attends to, H x m x (groups, tenths of the text), and who reads it
        self.slots: Tensor | None = None
        self.read: Tensor | None = None

    def add(self, view: View) -> None:
        """Add a batch's."""
        weights = view.weights.double()
        readers, columns = _readers(view.rows), _one_hot(view.columns, len(GROUPS))
        by_row = torch.einsum("hbqk,bkg->hbqg", weights, columns)
        self.mass += torch.einsum("hbqg,bqr->hrg", by_row, readers)
        allowed = view.allowed.double()
        count = allowed.sum(dim=2)  # B x Q
        even = torch.einsum("bqk,bkg->bqg", allowed, columns) / count.clamp(min=1)[..., None]
        self.uniform += torch.einsum("bqg,bqr->rg", even, readers)
        entropy = -torch.special.xlogy(weights, weights).sum(dim=3) / torch.log(torch.tensor(2.0))
        self.entropy += torch.einsum("hbq,bqr->hr", entropy, readers)
        self.uniform_entropy += torch.einsum("bq,bqr->r", count.clamp(min=1).log2(), readers)
        self.rows += readers.sum(dim=(0, 1))
        memory = int((view.columns[0] == MEMORY).sum())
        if memory > 0:
            self._add_slots(view, weights, by_row, readers, memory)

    def _add_slots(
        self, view: View, weights: Tensor, by_row: Tensor, readers: Tensor, memory: int
    ) -> None:
        text = torch.isin(view.columns, torch.tensor(TEXT)).double()  # B x K
        place = (text.cumsum(dim=1) - 1) / text.sum(dim=1, keepdim=True).clamp(min=1)
        tenths = F.one_hot((place * TENTHS).long().clamp(0, TENTHS - 1), TENTHS) * text[..., None]
        writers = WRITTEN if (view.rows[0] == WRITTEN).any() else MEMORY
        rows = (view.rows[0] == writers).nonzero().squeeze(1)
        size = weights.size(0), memory
        if self.read is None or self.slots is None:
            self.read = torch.zeros(*size, dtype=torch.float64)
            self.slots = torch.zeros(*size, len(GROUPS) + TENTHS, dtype=torch.float64)
        self.read += torch.einsum("hbqm,bq->hm", weights[..., :memory], readers[..., 1])
        if view.kind != CROSS and len(rows) == memory:
            spread = torch.einsum("hbqk,bkt->hbqt", weights[:, :, rows], tenths.double())
            self.slots += torch.cat([by_row[:, :, rows], spread], dim=3).sum(dim=1)
            if writers == MEMORY:
                self.own += weights[:, :, range(memory), range(memory)].sum(dim=(1, 2))

    def mean(self, head: int, reader: int) -> Mean:
        """The averages of a head; NaN where there was no such row."""
        rows = self.rows[reader]
        mass = (self.mass[head, reader] / rows).tolist()
        return Mean(
            dict(zip((*GROUPS, "sink"), (*mass, max(0.0, 1.0 - sum(mass))))),
            dict(zip(GROUPS, (self.uniform[reader] / rows).tolist())),
            float(self.entropy[head, reader] / rows),
            float(self.uniform_entropy[reader] / rows),
            float(self.own[head] / rows) if reader == 0 else float("nan"),
            int(rows),
        )


@dataclass
class StateSums:
    """The states behind one layer, of one group of positions."""

    count: int = 0
    norm: float = 0.0
    largest_norm: float = 0.0
    largest: float = 0.0  # absolute activation
    channel: int = -1  # where that was
    outliers: int = 0

    def add(self, states: Tensor, norms: Tensor, typical: Tensor) -> None:
        """Add some positions' states (P x C), their norms (P) and their sentences' mean norms."""
        if len(norms) == 0:
            return
        self.count += len(norms)
        self.norm += float(norms.sum())
        self.largest_norm = max(self.largest_norm, float(norms.max()))
        self.outliers += int((norms > OUTLIER * typical).sum())
        peak = states.abs().amax(dim=0)  # C
        if float(peak.max()) > self.largest:
            self.largest, self.channel = float(peak.max()), int(peak.argmax())


class Averages:
    """The averages of one model.

    Attributes:
        layers: by kind and layer, in the model's order.
        states: by side and layer, and group.
        sentences: how many were read.
    """

    def __init__(self) -> None:
        self.layers: dict[tuple[str, int], LayerSums] = {}
        self.states: dict[tuple[str, int], dict[int, StateSums]] = defaultdict(dict)
        self.sentences = 0

    def add(self, reading: Reading) -> None:
        """Add a batch."""
        for view in sorted(reading.views, key=lambda view: (ORDER.index(view.kind), view.layer)):
            key = view.kind, view.layer
            if key not in self.layers:
                self.layers[key] = LayerSums(view.weights.size(0))
            self.layers[key].add(view)
            if view.kind != CROSS:
                self._add_states(key, reading.states[key][view.segment], view.rows)
        self.sentences += reading.views[0].weights.size(1)

    def _add_states(self, key: tuple[str, int], states: Tensor, rows: Tensor) -> None:
        # memory that a last layer does not update is not among its queries, but handed on
        rows = F.pad(rows, (states.size(1) - rows.size(1), 0), value=MEMORY)
        norms = states.double().norm(dim=2)  # B x Q
        text = torch.isin(rows, torch.tensor(TEXT))
        typical = (norms * text).sum(dim=1) / text.sum(dim=1).clamp(min=1)
        typical = typical[:, None].expand_as(norms)
        for group in sorted(set(rows.unique().tolist()) - {-1}):
            here = rows == group
            self.states[key].setdefault(group, StateSums()).add(
                states[here], norms[here], typical[here]
            )
