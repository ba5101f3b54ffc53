"""The mistakes that are planted, read from the TOML files beside this one.

Each says in which file it is, the text as it is (which occurs there once), the text as mistaken,
and which tests should notice: arguments of pytest's, a part of what ``make test`` runs.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Mistake(NamedTuple):
    """A mistake that somebody could make."""

    what: str
    file: str
    line: str
    mistaken: str
    tests: str

    def problem(self, text: str) -> str | None:
        """Why it cannot be planted in a file's text; None if it can."""
        count = text.count(self.line)
        return None if count == 1 else f"{self.file} has {count} times, not once: {self.line}"

    def planted(self, text: str) -> str:
        """The text with the mistake."""
        return text.replace(self.line, self.mistaken)


def read_mistakes() -> list[Mistake]:
    """All of them, by file and in its order."""
    return [
        Mistake(**entry)
        for path in sorted(HERE.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mistakes"]
    ]
