"""Charts as PNG files; matplotlib is imported only when one is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY, BLACK = "#4477aa", "#bbbbbb", "#222222"


@dataclass
class Bar:
    """The mean of some values, its spread, and the values themselves."""

    label: str
    values: Sequence[float]
    mean: float
    deviation: float | None  # None: of one value there is none
    is_baseline: bool = False


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, drawn without a display; sizes in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "charts need matplotlib, which is not installed; run: "
            "pip install 'fairseq-mem[analysis]'"
        ) from None
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save(figure: "Figure", path: Path) -> None:
    """Write the figure, whole; the same figure gives the same bytes."""
    write_whole(
        path, lambda partial: figure.savefig(partial, format="png", metadata={"Software": None})
    )


def draw_bars(axes: "Axes", bars: Sequence[Bar], metric: str, better: str) -> None:
    """Horizontal bars, the first on top, with the standard deviation and every value as a dot.

    The axis begins near the smallest value, and says so: differences between models are small
    beside the values.
    """
    places = range(len(bars))
    axes.barh(
        places,
        [bar.mean for bar in bars],
        color=[GREY if bar.is_baseline else BLUE for bar in bars],
        xerr=[bar.deviation or 0.0 for bar in bars],
        error_kw={"ecolor": BLACK, "capsize": 3},
        height=0.6,
    )
    for place, bar in zip(places, bars):
        axes.plot(
            bar.values, [place] * len(bar.values), "o", color=BLACK, markersize=4,
            markerfacecolor="white", zorder=3,
        )  # fmt: skip
        if bar.is_baseline:
            axes.axvline(bar.mean, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [bar.label for bar in bars])
    axes.invert_yaxis()
    ends = [end for bar in bars for end in (*bar.values, bar.mean - (bar.deviation or 0.0),
                                            bar.mean + (bar.deviation or 0.0))]  # fmt: skip
    span = max(ends) - min(ends) or 0.1 * abs(max(ends)) or 1.0
    start = max(min(ends) - 0.5 * span, 0.0) if min(ends) >= 0 else min(ends) - 0.5 * span
    axes.set_xlim(start, max(ends) + 0.1 * span)
    note = f"\n(the axis begins at {start:.3g})" if start else ""
    axes.set_xlabel(f"{metric} ({better} is better){note}")
    axes.spines[["top", "right"]].set_visible(False)


def draw_line(
    axes: "Axes", places: Sequence[float], values: Sequence[Sequence[float]], x: str, y: str
) -> None:
    """Means as a line with their standard deviation, every value as a dot.

    Args:
        axes: where to draw.
        places: on the x axis.
        values: those of each place.
        x: the name of the x axis.
        y: the name of the y axis.
    """
    means = [fmean(of_place) for of_place in values]
    if any(len(of_place) > 1 for of_place in values):
        deviations = [stdev(of_place) if len(of_place) > 1 else 0.0 for of_place in values]
        axes.errorbar(places, means, yerr=deviations, color=BLUE, ecolor=BLACK, capsize=3)
    else:
        axes.plot(places, means, color=BLUE)
    for place, of_place in zip(places, values):
        axes.plot(
            [place] * len(of_place), of_place, "o", color=BLACK, markersize=4,
            markerfacecolor="white",
        )  # fmt: skip
    axes.set_xticks(list(places))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
