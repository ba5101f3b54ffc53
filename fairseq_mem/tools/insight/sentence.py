"""One sentence: the raw weights, a page to look through them, and pictures for papers.

The page is one file that loads nothing: some 15 kB and 2.7 bytes for each weight (16 bits, so that
a weight is off by less than 0.00001; the exact ones are in the ``.npz``). A drawing library would
add megabytes to every page, and draws a heat map no better than a canvas.
"""

import base64
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_text, write_whole
from ...runs import charts
from .reader import Reading
from .views import CACHE, CROSS, DECODER, ENCODER, GROUPS, MEMORY, STATIC, WRITTEN, View

LABELS = {
    ENCODER: "encoder", DECODER: "decoder, to itself", CROSS: "decoder, to the encoder",
}  # fmt: skip
CONTENT = (MEMORY, WRITTEN, STATIC)  # what is marked off from the text


@dataclass
class Picture:
    """One layer's attention in one sentence, without padding.

    Attributes:
        view: where it is from.
        weights: H x Q x K.
        rows, columns: what the positions are called.
        row_groups, column_groups: what they are, as numbers of GROUPS.
    """

    view: View
    weights: np.ndarray
    rows: list[str]
    columns: list[str]
    row_groups: list[int]
    column_groups: list[int]

    @property
    def label(self) -> str:
        """For people."""
        return LABELS[self.view.kind] + (
            f", segment {self.view.segment}" if self.view.segment else ""
        )

    @property
    def name(self) -> str:
        """For files: ``encoder-0``; behind the first segment of a text ``decoder-0-segment-1``."""
        segment = f"-segment-{self.view.segment}" if self.view.segment else ""
        return f"{self.view.kind}-{self.view.layer}{segment}"


def _named(groups: list[int], words: list[str], skipped: int) -> list[str]:
    """What positions are called: slots are numbered, text is its words.

    Args:
        groups: of every position.
        words: the whole text's, padding left out.
        skipped: how many of them an earlier segment had.
    """
    names, counts = [], {group: 0 for group in (*CONTENT, CACHE)}
    cached = groups.count(CACHE)
    text = skipped
    for group in groups:
        if group in CONTENT:
            prefix = {MEMORY: "mem", WRITTEN: "write", STATIC: "static"}[group]
            names.append(f"{prefix} {counts[group]}")
            counts[group] += 1
        elif group == CACHE:
            names.append(words[skipped - cached + counts[CACHE]])
            counts[CACHE] += 1
        else:
            names.append(words[text])
            text += 1
    return names


def pictures(reading: Reading, pad: str) -> list[Picture]:
    """What there is of a batch's first sentence.

    Args:
        reading: of the batch.
        pad: the word of padding, which is left out.
    """

    def words(lines: list[list[str]] | None) -> list[str]:
        return [] if lines is None else [word for word in lines[0] if word != pad]

    source, target = words(reading.source), words(reading.target)
    written = words(reading.written) or target
    made = []
    lengths: dict[int, int] = {}  # of the segments
    for view in reading.views:
        groups = view.rows[0].tolist()
        lengths[view.segment] = sum(group not in (-1, *CONTENT, CACHE) for group in groups)
    for view in reading.views:
        groups = [view.rows[0].tolist(), view.columns[0].tolist()]
        keep = [[n for n, group in enumerate(side) if group >= 0] for side in groups]
        kept = [[group for group in side if group >= 0] for side in groups]
        skipped = sum(lengths[segment] for segment in range(view.segment))
        own = source if view.kind == ENCODER else written
        row_groups = kept[0]
        if view.kind != ENCODER and reading.written_groups is not None:
            # these rows are called by what is written there; the view's groups are of what is read
            said = iter([group for group in reading.written_groups[0].tolist() if group >= 0])
            row_groups = [group if group in CONTENT else next(said) for group in kept[0]]
        looked_at = source if view.kind in (ENCODER, CROSS) else target
        weights = view.weights[:, 0].double().numpy()[:, keep[0]][:, :, keep[1]]
        names = _named(kept[0], own, skipped), _named(kept[1], looked_at, skipped)
        made.append(Picture(view, weights, *names, row_groups, kept[1]))
    return made


def write_weights(path: Path, shown: list[Picture]) -> None:
    """The raw weights, as a compressed ``.npz``.

    For every layer's attention ``NAME``: ``NAME.weights`` (heads x rows x columns, float64),
    ``NAME.rows`` and ``NAME.columns`` (what the positions are called), ``NAME.row_groups`` and
    ``NAME.column_groups`` (numbers, which ``groups`` names). Names are ``encoder-0``,
    ``decoder-0``, ``cross-0``, and so on.
    """
    arrays: dict[str, Any] = {"groups": np.array(GROUPS)}
    for picture in shown:
        arrays |= {
            f"{picture.name}.weights": picture.weights,
            f"{picture.name}.rows": np.array(picture.rows),
            f"{picture.name}.columns": np.array(picture.columns),
            f"{picture.name}.row_groups": np.array(picture.row_groups),
            f"{picture.name}.column_groups": np.array(picture.column_groups),
        }

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_whole(path, write)


def write_page(path: Path, shown: list[Picture], title: str, texts: list[tuple[str, str]],
               sink: bool, foot: str) -> None:  # fmt: skip
    """The page.

    Args:
        path: the file.
        shown: the pictures.
        title: of the page.
        texts: what was read and written, each with its name.
        sink: whether rows may sum to less than 1.
        foot: what stands below.
    """
    entries = []
    for picture in shown:
        whole = np.round(picture.weights * 65535)
        seen = np.where((whole == 0) & (picture.weights > 0), 1, whole)  # 0 is: masked
        entries.append({
            "label": picture.label, "layer": picture.view.layer, "heads": len(picture.weights),
            "rows": picture.rows, "columns": picture.columns, "rowGroups": picture.row_groups,
            "columnGroups": picture.column_groups,
            "weights": base64.b64encode(seen.astype("<u2").tobytes()).decode(),
        })  # fmt: skip
    data = {
        "title": title, "texts": texts, "groups": GROUPS, "memoryGroups": CONTENT,
        "sink": sink, "views": entries, "foot": foot,
    }  # fmt: skip
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    write_text(path, template.replace("__DATA__", text))


def write_pictures(folder: Path, shown: list[Picture], every_head: bool) -> list[Path]:
    """PNGs: of each kind the mean over heads, layer by layer; and of each layer all heads.

    Args:
        folder: where they go.
        shown: the pictures.
        every_head: also those of a layer's heads.
    """
    written = []
    for label in dict.fromkeys(picture.label for picture in shown):
        layers = [picture for picture in shown if picture.label == label]
        kind = layers[0].name.replace("-0", "", 1) if layers[0].view.layer == 0 else layers[0].name
        panels = [(f"layer {one.view.layer}", one, one.weights.mean(axis=0)) for one in layers]
        path = folder / f"{kind}.png"
        _draw(path, f"{label}: mean of heads", panels)
        written.append(path)
        for one in layers if every_head else []:
            path = folder / f"{one.name}-heads.png"
            panels = [(f"head {number}", one, head) for number, head in enumerate(one.weights)]
            _draw(path, f"{label}, layer {one.view.layer}", panels)
            written.append(path)
    return written


def _draw(path: Path, title: str, panels: list[tuple[str, Picture, np.ndarray]]) -> None:
    """Some heat maps side by side, labelled where there is room."""
    down_by, across_by = (max(weights.shape[n] for _, _, weights in panels) for n in (0, 1))
    across = min(len(panels), 3 if across_by <= 20 else 2 if across_by <= 45 else 1)
    down = -(-len(panels) // across)
    longest = max(down_by, across_by)
    figure = charts.new_figure(
        across * (2.0 + 0.15 * across_by), down * (1.6 + 0.15 * down_by) + 0.4
    )
    figure.suptitle(title)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, picture, weights) in zip(grid.flat, panels):
        image = axes.imshow(np.sqrt(weights), cmap="Blues", vmin=0, aspect="equal")
        size = 7 if longest <= 60 else 5
        plain: Any = {"fontsize": size, "parse_math": False}  # a word may have dollars
        axes.set_xticks(range(len(picture.columns)), picture.columns, rotation=90, **plain)
        axes.set_yticks(range(len(picture.rows)), picture.rows, **plain)
        axes.set_title(name, fontsize=9)
        for groups, line in (
            (picture.column_groups, axes.axvline),
            (picture.row_groups, axes.axhline),
        ):
            marked = [group in CONTENT for group in groups]
            for place in range(1, len(marked)):
                if marked[place] != marked[place - 1]:
                    line(place - 0.5, color="#b3261e", linewidth=1)
        bar = figure.colorbar(image, ax=axes, shrink=0.6)
        ticks = np.linspace(0, float(np.sqrt(weights).max()) or 1.0, 4)
        bar.set_ticks(ticks.tolist(), labels=[f"{tick**2:.2g}" for tick in ticks])
    charts.save(figure, path)
