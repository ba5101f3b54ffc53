"""The bands of fairseq's adaptive input and softmax, refused where they cannot be built."""

import ast
from typing import Any

from .errors import UserError


def check_bands(
    kind: str, cutoff: Any, words: int, dim: int, factor: float, smallest: int = 1
) -> None:
    """Refuse an adaptive input or softmax that cannot be built, or with a band that holds nothing.

    Args:
        kind: ``"input"`` or ``"softmax"``, as in the options' names.
        cutoff: rising numbers, or the option's text; text that makes no sense is left to fairseq.
        words: in the dictionary.
        dim: width of the first band; each is ``factor`` times narrower than the one before.
        smallest: words that a band must have.

    Raises:
        UserError: names the option, its value and what to do.
    """
    try:
        given = ast.literal_eval(cutoff) if isinstance(cutoff, str) else cutoff
        ends = [int(end) for end in (given if isinstance(given, list | tuple) else [given])]
    except (ValueError, SyntaxError, TypeError):
        ends = []
    if not ends:
        return
    if ends[-1] > words:
        raise UserError(
            f"adaptive_{kind}_cutoff has {ends[-1]}, and the dictionary has {words} words; leave "
            "out what is beyond it"
        )
    if ends[-1] < words:
        ends.append(words)
    last = len(ends) - 1
    if not factor > 0 or dim // min(factor, dim + 1) ** last < 1:
        raise UserError(
            f"adaptive_{kind}_factor {factor:g} leaves the last of {last + 1} bands no width "
            f"({dim} / {factor:g}^{last} is below 1); give a smaller factor above 0, or fewer "
            "cut-offs"
        )
    for start, end in zip([0, *ends], ends, strict=False):
        if end - start < smallest:
            raise UserError(
                f"adaptive_{kind}_cutoff makes a band of {end - start} words ({start} to {end}), "
                f"and fairseq needs {smallest} at least; give other cut-offs"
            )
