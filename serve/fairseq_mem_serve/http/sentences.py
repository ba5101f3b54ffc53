"""Text to sentences, and their translations to text again, with its line breaks and spaces.

The sentences are found by the rules of sentencex (of the Wikimedia Foundation, MIT) for the
language; for one that it does not know, by those for English.
"""

import re
from itertools import pairwise
from typing import NamedTuple

import sentencex

BREAKS = re.compile(r"[\r\n\u2028\u2029]+")
# The rules look at pairs of quotes, in time that grows with the square of a text's length; so a
# line is given to them piece by piece.
WINDOW = 4000  # characters; a sentence of more is too long for any model
SPACELESS = frozenset(("zh", "ja", "th", "lo", "km", "my", "yue", "wuu", "bo"))


class Divided(NamedTuple):
    """A text: ``gaps[0] + sentences[0] + gaps[1] + ... + gaps[-1]``.

    Attributes:
        sentences: none is blank, none has spaces at its ends.
        gaps: what stands between them, one more than there are sentences.
    """

    sentences: list[str]
    gaps: list[str]


def divide(text: str, language: str, split: bool = True) -> Divided:
    """Divide a text into sentences.

    Args:
        text: of any length; a line break always ends a sentence.
        language: its code, such as ``de`` or ``de_DE``.
        split: find the sentences of each line; else a line is a sentence.
    """
    pieces: list[str] = []
    position = 0
    for found in BREAKS.finditer(text):
        pieces += _of_line(text[position : found.start()], language, split)
        position = found.start()  # the break becomes the beginning of what follows, a gap
        pieces.append(text[position : found.end()])
        position = found.end()
    pieces += _of_line(text[position:], language, split)
    sentences: list[str] = []
    gaps = [""]
    for piece in pieces:
        core = piece.strip()
        if not core:
            gaps[-1] += piece
            continue
        start = piece.index(core)
        gaps[-1] += piece[:start]
        sentences.append(core)
        gaps.append(piece[start + len(core) :])
    return Divided(sentences, gaps)


def put_together(translations: list[str], gaps: list[str], target: str) -> str:
    """Return the translated text.

    Args:
        translations: of the sentences.
        gaps: of the text, one more than there are sentences.
        target: the translations' language. Some are written without spaces between sentences; what
            comes from one of these into another language gets spaces.
    """
    spaceless = base(target) in SPACELESS
    parts = [gaps[0]]
    for translation, gap in zip(translations, gaps[1:-1]):
        if not gap:
            gap = "" if spaceless else " "
        elif gap == " " and spaceless:
            gap = ""
        parts += translation, gap
    if translations:
        parts += translations[-1], gaps[-1]
    return "".join(parts)


def base(language: str) -> str:
    """``de`` of ``de``, ``de_DE``, ``de-AT``."""
    return re.split("[-_]", language, maxsplit=1)[0].lower()


def _of_line(line: str, language: str, split: bool) -> list[str]:
    """The pieces of a line, spaces kept."""
    if not split or not line.strip():
        return [line]
    found: list[str] = []
    rest = line
    while len(rest) > WINDOW:
        pieces = _segment(rest[:WINDOW], language)
        # What the window has cut off belongs to the next one; unless there is nothing else.
        kept = pieces[:-1] or [rest[: rest.rfind(" ", 1, WINDOW) + 1] or rest[:WINDOW]]
        found += kept
        rest = rest[sum(map(len, kept)) :]
    return found + _segment(rest, language)


def _segment(text: str, language: str) -> list[str]:
    """sentencex's sentences, cut out of the text itself."""
    starts = [0]
    for sentence in sentencex.segment(base(language), text)[:-1]:
        starts.append(starts[-1] + len(sentence))
    return [text[start:end] for start, end in pairwise([*starts, len(text)]) if end > start]
