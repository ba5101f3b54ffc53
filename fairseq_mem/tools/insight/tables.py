"""What the averages tell: a report in Markdown, CSV files, charts."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_text
from ...runs import charts
from ...runs.tables import markdown
from .averages import READERS, Averages, LayerSums, Mean
from .operations import operations
from .sentence import LABELS
from .views import CROSS, DECODER, ENCODER, GROUPS, MARKS, MEMORY, PUNCTUATION, TEXT

SHARES = (*GROUPS, "sink")


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def heads(averages: Averages) -> Iterator[tuple[str, int, int, dict[str, Mean], list[str]]]:
    """Of every head: kind, layer, head, its means by who attends, and the names of what it does."""
    for (kind, layer), sums in averages.layers.items():
        for head in range(len(sums.mass)):
            means = {
                reader: sums.mean(head, number)
                for number, reader in enumerate(READERS)
                if sums.rows[number] > 0
            }
            writer = means.get("written") or means.get("memory")
            if kind == CROSS:
                writer = None  # the decoder's slots write no memory of the encoder's
            yield kind, layer, head, means, operations(writer, means.get("text"))


def attention_csv(averages: Averages) -> str:
    """A line for each head and each kind of rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        "attention", "layer", "head", "rows", "number_of_rows",
        *(f"to_{name}" for name in SHARES), *(f"even_{name}" for name in GROUPS),
        "entropy_bits", "even_entropy_bits", "own_slot", "operations",
    ])  # fmt: skip
    for kind, layer, head, means, names in heads(averages):
        for reader, mean in means.items():
            writer.writerow([
                kind, layer, head, reader, mean.rows,
                *(f"{mean.mass[name]:.6f}" for name in SHARES),
                *(f"{mean.uniform[name]:.6f}" for name in GROUPS),
                f"{mean.entropy:.6f}", f"{mean.uniform_entropy:.6f}", _number(mean.own, 6),
                " ".join(name.replace(" ", "-") for name in names),
            ])  # fmt: skip
    return text.getvalue()


def states_csv(averages: Averages) -> str:
    """A line for each layer and group of positions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        "side", "layer", "positions", "number", "mean_norm", "largest_norm",
        "largest_activation", "its_channel", "outliers",
    ])  # fmt: skip
    for (side, layer), by_group in averages.states.items():
        for group, sums in sorted(by_group.items()):
            writer.writerow([
                side, layer, GROUPS[group], sums.count, f"{sums.norm / sums.count:.6g}",
                f"{sums.largest_norm:.6g}", f"{sums.largest:.6g}", sums.channel, sums.outliers,
            ])  # fmt: skip
    return text.getvalue()


def slots_csv(averages: Averages) -> str:
    """A line for each slot in each head: what it attends to, and who reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tenths = [f"to_tenth_{number}" for number in range(10)]
    writer.writerow([
        "attention", "layer", "head", "slot", "read_by_text",
        *(f"to_{name}" for name in GROUPS), *tenths,
    ])  # fmt: skip
    for (kind, layer), sums in averages.layers.items():
        if sums.read is None or sums.slots is None:
            continue
        read = sums.read / sums.rows[1].clamp(min=1)
        written = _writers(sums) > 0  # in cross-attention slots are read and attend to nothing
        attended = sums.slots / max(1.0, _writers(sums) / sums.read.size(1))
        for head in range(read.size(0)):
            for slot in range(read.size(1)):
                shares = [f"{share:.6f}" if written else "" for share in attended[head, slot]]
                writer.writerow([kind, layer, head, slot, f"{read[head, slot]:.6f}",
                                 *shares])  # fmt: skip
    return text.getvalue()


def _writers(sums: LayerSums) -> float:
    """How many memory rows there were whose slots are told."""
    return float(sums.rows[2] or sums.rows[0])


def _layer_rows(averages: Averages) -> Iterable[list[str]]:
    """Means over the heads of a layer."""
    for (kind, layer), sums in averages.layers.items():
        for number, reader in enumerate(READERS):
            if sums.rows[number] == 0:
                continue
            means = [sums.mean(head, number) for head in range(len(sums.mass))]

            def of(names: Iterable[int], means: list[Mean] = means) -> str:
                share = np.mean([sum(mean.mass[GROUPS[g]] for g in names) for mean in means])
                even = sum(means[0].uniform[GROUPS[g]] for g in names)
                return f"{share:.3f} ({even:.3f})" if even > 0 else ""

            yield [
                LABELS[kind], str(layer), reader, of([MEMORY]), of(TEXT), of([PUNCTUATION]),
                of([MARKS]), _number(float(np.mean([mean.mass["sink"] for mean in means]))),
                f"{np.mean([mean.entropy for mean in means]):.2f} "
                f"({means[0].uniform_entropy:.2f})",
            ]  # fmt: skip


def report(named: list[tuple[str, Averages]]) -> str:
    """The report in Markdown.

    Args:
        named: models and their averages over the same text.
    """
    lines = ["# Attention and memory", ""]
    for name, averages in named:
        lines += [
            f"## {name}", "",
            f"{averages.sentences:,} sentences. Shares of attention, means over heads and rows; in "
            "brackets what a reader would give who likes all allowed positions equally. Entropy in "
            "bits.", "",
            *markdown(
                ["attention", "layer", "rows", "to memory", "to text", "of it punctuation",
                 "of it marks", "sink", "entropy"],
                _layer_rows(averages), left=3,
            ), "",
        ]  # fmt: skip
        table: dict[str, list[str]] = {}
        for kind, layer, head, _, names in heads(averages):
            for operation in names:
                table.setdefault(operation, []).append(f"{kind} {layer}.{head}")
        if table:
            lines += [
                "What heads do (layer.head), by the rule below.", "",
                *markdown(["operation", "heads"],
                          [[key, ", ".join(some)] for key, some in table.items()], left=2), "",
            ]  # fmt: skip
        lines += [
            "States behind each layer.", "",
            *markdown(
                ["side", "layer", "positions", "mean norm", "largest norm", "largest activation",
                 "outliers"],
                [[side, layer, GROUPS[group], f"{sums.norm / sums.count:.2f}",
                  f"{sums.largest_norm:.2f}", f"{sums.largest:.2f}",
                  f"{sums.outliers / sums.count:.2%}"]
                 for (side, layer), by_group in averages.states.items()
                 for group, sums in sorted(by_group.items())], left=3,
            ), "",
        ]  # fmt: skip
    lines += [
        "- marks: `<s>` and `</s>`; punctuation: words without a letter or a digit; written: with "
        "recurrence, the slots whose states go to the next segment",
        "- the rule: memory *writes* if its odds of attending to the text are at least twice an "
        "even reader's, *processes* if those of attending to memory are (*keeps*, if a slot gives "
        "itself half of that); text *reads* if its odds of attending to memory are at least twice "
        "an even reader's, and *ignores* it if they are at most half; it *rests on* marks or "
        "punctuation that it gives half of its attention, at such odds, and on a *sink* or "
        "*static* keys that take half",
        "- outliers: states whose norm is more than twice the mean of their sentence's text",
    ]
    return "\n".join(lines) + "\n"


def draw(named: list[tuple[str, Averages]]) -> Any:
    """Who reads memory, and who rests on marks and punctuation: layer by layer, a line a model."""
    flows = (
        ("encoder: text to memory", ENCODER, 1, (MEMORY,)),
        ("encoder: memory to text", ENCODER, 0, TEXT),
        ("encoder: memory to memory", ENCODER, 0, (MEMORY,)),
        ("decoder: text to memory", DECODER, 1, (MEMORY,)),
        ("decoder to the encoder's memory", CROSS, 1, (MEMORY,)),
        ("encoder: text to marks and punctuation", ENCODER, 1, (MARKS, PUNCTUATION)),
        ("decoder: text to marks and punctuation", DECODER, 1, (MARKS, PUNCTUATION)),
        ("decoder to the encoder's marks and punctuation", CROSS, 1, (MARKS, PUNCTUATION)),
    )
    shown = [
        flow for flow in flows
        if any(kind == flow[1] and sums.rows[flow[2]] > 0 and
               float(sums.uniform[flow[2]][list(flow[3])].sum()) > 0
               for _, averages in named for (kind, _), sums in averages.layers.items())
    ]  # fmt: skip
    across = 2 if len(shown) > 1 else 1
    down = max(1, -(-len(shown) // across))
    figure = charts.new_figure(5.5 * across, 2.9 * down)
    grid = figure.subplots(down, across, squeeze=False)
    colors = (charts.BLUE, charts.GREY, charts.BLACK)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (title, kind, reader, groups) in zip(grid.flat, shown):
        for number, (name, averages) in enumerate(named):
            layers = {layer: sums for (where, layer), sums in averages.layers.items()
                      if where == kind and sums.rows[reader] > 0}  # fmt: skip
            if not layers:
                continue
            shares = [(sums.mass[:, reader, list(groups)].sum(dim=1) / sums.rows[reader]).tolist()
                      for sums in layers.values()]  # fmt: skip
            even = [float(sums.uniform[reader, list(groups)].sum() / sums.rows[reader])
                    for sums in layers.values()]  # fmt: skip
            color = colors[number % len(colors)]
            axes.plot(list(layers), [np.mean(of_heads) for of_heads in shares], color=color,
                      label=name)  # fmt: skip
            for layer, of_heads in zip(layers, shares):
                axes.plot([layer] * len(of_heads), of_heads, "o", color=color, markersize=3)
            axes.plot(list(layers), even, color=color, linestyle=":", label=f"{name}: even reader")
            axes.set_xticks(list(layers))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("layer (dots: heads)")
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    if shown:
        grid.flat[0].legend(fontsize=8)
    return figure


def write_corpus(folder: Path, named: list[tuple[str, Averages]]) -> None:
    """Write the report, the CSV files and the chart; a second model's CSV files end in ``-2``."""
    for number, (_, averages) in enumerate(named):
        suffix = f"-{number + 1}" if number else ""
        write_text(folder / f"attention{suffix}.csv", attention_csv(averages))
        write_text(folder / f"states{suffix}.csv", states_csv(averages))
        write_text(folder / f"slots{suffix}.csv", slots_csv(averages))
    charts.save(draw(named), folder / "attention.png")
    write_text(folder / "attention.md", report(named))
