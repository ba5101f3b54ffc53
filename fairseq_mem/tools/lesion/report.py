"""The table, the CSV and the chart of a model's lesions."""

import argparse
import csv
import io
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ...runs import charts
from ...runs.tables import markdown, signed
from .settings import Setting

#: for each setting, a result of each checkpoint
Results = dict[Setting, list[dict[str, Any]]]


@dataclass
class Row:
    """A setting's means over the checkpoints."""

    setting: Setting
    bleu: list[float]
    loss: list[float]

    def text(self) -> str:
        """What the setting is."""
        if self.setting.lesion != "none":
            return f"{self.setting.lesion}, {self.setting.scope}"
        return f"{self.setting.slots} {'slot' if self.setting.slots == 1 else 'slots'}"


def spread(values: list[float]) -> float | None:
    """The sample standard deviation; of one value there is none."""
    return stdev(values) if len(values) > 1 else None


def rows_of(results: Results) -> list[Row]:
    """The table's rows, the whole model first."""
    return [
        Row(setting, [one["BLEU"] for one in some], [one["loss"] for one in some])
        for setting, some in results.items()
    ]


def report(rows: list[Row], results: Results, note: str, args: argparse.Namespace) -> str:
    """The report in Markdown."""
    several = len(rows[0].bleu) > 1
    head = ["setting", "BLEU", "difference", "loss", "difference"]
    table = []
    for row in rows:
        line = [row.text() + (" (all)" if row is rows[0] else "")]
        for values, whole, digits in (
            (row.bleu, rows[0].bleu, 2),
            (row.loss, rows[0].loss, 3),
        ):
            deviation = spread(values)
            line.append(
                f"{fmean(values):.{digits}f}"
                + ("" if deviation is None else f" ± {deviation:.{digits}f}")
            )
            line.append("" if row is rows[0] else signed(fmean(values) - fmean(whole), digits))
        table.append(line)
    first = results[rows[0].setting][0]
    where = "the reference given" if args.reference else "the binarised target, detokenised"
    lines = ["# Lesions of memory", ""]
    if several:
        lines += [f"Means and sample standard deviations of {len(rows[0].bleu)} checkpoints.", ""]
    lines += [
        f"{first['sentences']:,} sentences of {args.gen_subset}, beam {args.beam}, length penalty "
        f"{args.lenpen:g}; BLEU against {where}. The loss is of the reference, teacher-forced, in "
        "bits a token (fairseq-validate's `nll_loss`). Differences are to the whole model.",
        "",
        "![lesion](lesion.png)",
        "",
        *markdown(head, table),
        "",
        "- no-read: text may not attend to memory; zero-read: what it attends to memory is set to "
        "zero after the softmax. encoder: in the encoder; cross: in the decoder's attention to "
        "the encoder; decoder: in the decoder's attention to itself; all: everywhere",
    ]
    for signature in sorted({one["signature"] for some in results.values() for one in some}):
        lines.append(f"- signature: `{signature}`")
    for versions in sorted({one["versions"] for some in results.values() for one in some}):
        lines.append(f"- versions: {versions}")
    for path, one in zip(args.checkpoints, results[rows[0].setting]):
        lines.append(f"- checkpoint: `{path.name}`, sha256 {one['settings']['checkpoint']}")
    if note:
        lines.append(f"- {note}")
    return "\n".join(lines) + "\n"


def comma_separated(rows: list[Row]) -> str:
    """The report as CSV: a line for each setting."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        "slots", "lesion", "scope", "checkpoints", "BLEU", "BLEU_standard_deviation",
        "BLEU_by_checkpoint", "loss", "loss_standard_deviation", "loss_by_checkpoint",
    ])  # fmt: skip
    for row in rows:
        writer.writerow([
            row.setting.slots, row.setting.lesion, row.setting.scope, len(row.bleu),
            fmean(row.bleu), spread(row.bleu), " ".join(map(str, row.bleu)),
            fmean(row.loss), spread(row.loss), " ".join(map(str, row.loss)),
        ])  # fmt: skip
    return text.getvalue()


def draw(rows: list[Row]) -> Any:
    """Slots against BLEU and loss as lines; below, lesions as bars."""
    slots = sorted(
        (row for row in rows if row.setting.lesion == "none"), key=lambda row: row.setting.slots
    )
    bars = [rows[0], *(row for row in rows if row.setting.lesion != "none")]
    heights = [3.0, 1.0 + 0.35 * len(bars)]
    figure = charts.new_figure(10, sum(heights))
    grid = figure.subplots(2, 2, gridspec_kw={"height_ratios": heights})
    for column, (name, better) in enumerate((("BLEU", "higher"), ("loss", "lower"))):
        values = [getattr(row, name.lower()) for row in slots]
        charts.draw_line(
            grid[0][column], [row.setting.slots for row in slots], values,
            "memory slots", f"{name} ({better} is better)",
        )  # fmt: skip
        charts.draw_bars(
            grid[1][column],
            [
                charts.Bar(row.text(), some, fmean(some), spread(some), row is rows[0])
                for row in bars
                for some in [getattr(row, name.lower())]
            ],
            name,
            better,
        )
    return figure
