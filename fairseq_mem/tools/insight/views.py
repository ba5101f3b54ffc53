"""What a model attended to, as one matrix for each layer, with the group of every position.

The weights are those that `attention.recording` takes from the modules that compute the output.
Here they are only put together: a layer whose memory has a controller of its own gives two maps,
and Transformer-XL one for every segment.

Letters: H heads, B sentences, Q rows (queries), K columns (keys), m memory slots, T text positions.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.recording import Maps

# What a position is. Padding is in no group: -1.
GROUPS = ("memory", "words", "punctuation", "marks", "cache", "written", "static")
MEMORY, WORDS, PUNCTUATION, MARKS, CACHE, WRITTEN, STATIC = range(len(GROUPS))
TEXT = (WORDS, PUNCTUATION, MARKS)
PADDING = -1
ENCODER, DECODER, CROSS = "encoder", "decoder", "cross"
ORDER = (ENCODER, CROSS, DECODER)  # in which they are shown

_NAME = re.compile(
    r"(?P<side>encoder|decoder)(?:\.sentence_encoder)?\."
    r"(?:layers\.(?P<layer>\d+)\.)?(?P<part>self_attn|encoder_attn|controller\.self_attn)"
)
LAYER = re.compile(r"(?P<side>encoder|decoder)(?:\.sentence_encoder)?\.layers\.(?P<layer>\d+)")


@dataclass
class View:
    """One layer's attention in a batch.

    Attributes:
        kind: ``"encoder"``, ``"decoder"`` (also a language model's) or ``"cross"``.
        layer: its number, from 0.
        segment: of Transformer-XL's text, from 0; else 0.
        weights: H x B x Q x K; what is masked, padding included, is exactly zero.
        rows: the groups of the queries, B x Q.
        columns: the groups of the keys, B x K.
    """

    kind: str
    layer: int
    segment: int
    weights: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def allowed(self) -> Tensor:
        """Which keys a query may attend to: B x Q x K."""
        return (self.weights > 0).any(dim=0)


def groups_of(dictionary: Any) -> Tensor:
    """The group of every word of a dictionary: V.

    Punctuation is what has neither letters nor digits, marks are ``<s>`` and ``</s>``.
    """
    found = torch.full((len(dictionary),), WORDS)
    for number, word in enumerate(dictionary.symbols):
        bare = word.removesuffix("@@").strip("\u2581\u0120")  # what BPEs write for a space
        if bare and not any(letter.isalnum() for letter in bare):
            found[number] = PUNCTUATION
    found[dictionary.unk()] = WORDS
    found[dictionary.bos()] = found[dictionary.eos()] = MARKS
    found[dictionary.pad()] = PADDING
    return found


def _around(text: Tensor, memory: int, static: int) -> Tensor:
    """The groups of memory, text (B x T) and static keys."""
    return F.pad(F.pad(text, (memory, 0), value=MEMORY), (0, static), value=STATIC)


def static_keys(model: Any) -> int:
    """How many every attention has (``--memory-static``)."""
    found = (getattr(module, "controls", None) for module in model.modules())
    return next((controls.static for controls in found if controls is not None), 0)


def views(
    maps: Maps, static: int, source: Tensor | None = None, target: Tensor | None = None
) -> list[View]:
    """Put together what was recorded of one forward pass of a model that is not Transformer-XL.

    Args:
        maps: of the recording.
        static: N, see :func:`static_keys`.
        source: the groups of the encoder's text, B x T; None without encoder.
        target: those of the decoder's, B x T'; None without decoder.
    """
    found: dict[tuple[str, int, str], Tensor] = {}
    for name, calls in maps.items():
        if (match := _NAME.fullmatch(name)) is None:
            continue
        first = int(match["layer"] or 0)  # one controller of all layers is called by each in turn
        for number, weights in enumerate(calls):
            found[match["side"], first + number, match["part"]] = weights
    out = []
    for (side, layer, part), weights in found.items():
        text = source if side == ENCODER or part == "encoder_attn" else target
        assert text is not None
        if part == "controller.self_attn":
            continue
        if side == ENCODER:
            controller = found.get((side, layer, "controller.self_attn"))
            weights, slots = _joined(weights, controller, text.size(1), static)
            memory = weights.size(3) - text.size(1) - static
            rows = _around(text, slots, 0)
        else:
            memory = weights.size(3) - text.size(1) - static
            own = target if target is not None else text
            rows = _around(own, weights.size(2) - own.size(1), 0)
        kind = CROSS if part == "encoder_attn" else side
        out.append(View(kind, layer, 0, weights, rows, _around(text, memory, static)))
    return sorted(out, key=lambda view: (ORDER.index(view.kind), view.layer))


def _joined(
    weights: Tensor, controller: Tensor | None, text: int, static: int
) -> tuple[Tensor, int]:
    """One matrix of an encoder's layer, memory's rows first, and how many of these there are.

    A last layer whose memory nobody reads updates the text alone.
    """
    if controller is None:
        return weights, weights.size(2) - text
    memory = controller.size(2)
    if weights.size(3) == memory + static and text > 0:  # the bottleneck: text reads memory alone
        weights = torch.cat([F.pad(weights[..., :memory], (0, text)), weights[..., memory:]], dim=3)
    return torch.cat([controller, weights], dim=2), memory


def segment_views(
    maps: Maps, segments: Sequence[Tensor], memory: int, written: int, static: int
) -> list[View]:
    """Put together what was recorded of a text that Transformer-XL has read.

    Args:
        maps: of the recording: a map for each segment and layer.
        segments: the groups of their words, B x T each.
        memory: m, read slots in front of every segment.
        written: write slots behind it.
        static: N.
    """
    out = []
    for name, calls in maps.items():
        if (match := _NAME.fullmatch(name)) is None:
            continue
        for number, (weights, text) in enumerate(zip(calls, segments, strict=True)):
            length = text.size(1)
            reading = weights.size(2) - length - written
            past = weights.size(3) - memory - length - written - static
            body = F.pad(text, (0, written), value=WRITTEN)
            rows = F.pad(body, (reading, 0), value=MEMORY)
            columns = _around(F.pad(body, (past, 0), value=CACHE), memory, static)
            out.append(View(DECODER, int(match["layer"]), number, weights, rows, columns))
    return out


def states_by_layer(outputs: dict[str, list[Tensor]]) -> dict[tuple[str, int], list[Tensor]]:
    """What hooks on a model's layers have noted, by side and layer."""
    found: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for name, calls in outputs.items():
        if (match := LAYER.fullmatch(name)) is not None:
            found[match["side"], int(match["layer"])] += calls
    return found
