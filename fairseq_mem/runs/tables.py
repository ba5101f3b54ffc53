"""Tables in Markdown, and numbers in them."""

from collections.abc import Iterable


def cell(text: object) -> str:
    """A value as text for a cell: in one line, with its ``|`` escaped."""
    return " ".join(str(text).split()).replace("|", "\\|")


def markdown(head: list[str], rows: Iterable[Iterable[object]], left: int = 1) -> list[str]:
    """A table's lines; the first ``left`` columns are flush left, numbers flush right."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, marks, *([cell(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def signed(value: float, digits: int) -> str:
    """A difference with its sign, rounded to ``digits`` places; minus is a minus sign."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")
