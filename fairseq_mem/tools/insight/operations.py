"""Naming what a head does with memory, by a stated rule.

A flow is *marked* if its odds are at least twice those of a reader who likes all allowed positions
equally: with a share p of attention where that reader gives u, ``p (1 - u) >= 2 u (1 - p)``; it is
*avoided* if they are at most half. Odds rather than shares, because a share cannot double if it
is above one half. A name is given only where there was a choice (0 < u < 1).

- **write**: memory marks the text (the paper: token content is written into memory)
- **process**: memory marks memory (the paper: processing inside memory), or **keep** if a slot
  gives at least half of that to itself
- **read**: text marks memory; in cross-attention the decoder reads the encoder's memory
- **ignore**: text avoids memory
- **rest on marks**, **on punctuation**: text marks these, and gives them half of its attention
- **sink**, **static**: half goes to the control
"""

import math

from .averages import Mean
from .views import GROUPS, MARKS, MEMORY, PUNCTUATION, STATIC, TEXT

ODDS = 2.0
HALF = 0.5


def odds_ratio(share: float, uniform: float) -> float:
    """How much higher the odds are than a uniform reader's; NaN where there was no choice."""
    if not 0 < uniform < 1 or math.isnan(share):
        return math.nan
    return math.inf if share >= 1 else share / (1 - share) * (1 - uniform) / uniform


def operations(memory: Mean | None, text: Mean | None) -> list[str]:
    """The names of what a head does.

    Args:
        memory: of its memory rows (with recurrence, those that are written), or None.
        text: of its text rows, or None.
    """
    names = []
    if memory is not None and memory.rows > 0:
        written = sum(memory.mass[GROUPS[group]] for group in TEXT)
        even = sum(memory.uniform[GROUPS[group]] for group in TEXT)
        kept, even_kept = memory.mass[GROUPS[MEMORY]], memory.uniform[GROUPS[MEMORY]]
        if odds_ratio(written, even) >= ODDS:
            names.append("write")
        if odds_ratio(kept, even_kept) >= ODDS:
            names.append("keep" if memory.own >= HALF * kept else "process")
    if text is not None and text.rows > 0:
        share, even = text.mass[GROUPS[MEMORY]], text.uniform[GROUPS[MEMORY]]
        ratio = odds_ratio(share, even)
        if ratio >= ODDS:
            names.append("read")
        elif ratio <= 1 / ODDS:
            names.append("ignore")
        for group, name in ((MARKS, "rest on marks"), (PUNCTUATION, "rest on punctuation")):
            share = text.mass[GROUPS[group]]
            if share >= HALF and odds_ratio(share, text.uniform[GROUPS[group]]) >= ODDS:
                names.append(name)
        names += [name for name in ("sink", GROUPS[STATIC]) if text.mass[name] >= HALF]
    return names
