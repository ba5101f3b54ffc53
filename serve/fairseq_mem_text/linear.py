"""Moses' rules and BPE of any text in time that grows with its length, not with its square.

The results are those of sacremoses and subword-nmt, character for character.
"""

import heapq
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from sacremoses import MosesPunctNormalizer, MosesTokenizer

END_OF_WORD = "</w>"  # as subword-nmt marks it

# ---------------------------------------------------------------- Unicode

# Marks are no word characters. Python orders the marks of one letter in quadratic time; Unicode's
# "stream-safe" text has at most 30 of them.
TOO_MANY_MARKS = re.compile(r"([^\w\s\x00-\x7f]{31,})")


def compose(text: str) -> str:
    """Return the text in Unicode's form NFC, but for runs of more than 30 marks and symbols."""
    if text.isascii():
        return text
    parts = TOO_MANY_MARKS.split(text)
    parts[::2] = (unicodedata.normalize("NFC", part) for part in parts[::2])
    return "".join(parts)


# ---------------------------------------------------------------- Moses

DOTS_BEFORE_QUOTE = r'(\.+)"(\s*[^<])'


class LinearNormalizer(MosesPunctNormalizer):
    """Doesn't look from every dot of a long row of dots to its end."""

    substitutions: list[tuple[str, Any]]  # a pattern, and a text or a function for what it finds

    def __init__(self, language: str, **options: Any) -> None:
        super().__init__(language, **options)
        # The same matches: a row of dots is passed over whole if no quote is behind it.
        whole_row = (r'(\.+)(?:"(\s*[^<]))?', quote_before_dots)
        self.substitutions = [
            whole_row if pattern == DOTS_BEFORE_QUOTE else (pattern, replacement)
            for pattern, replacement in self.substitutions
        ]


def quote_before_dots(found: re.Match[str]) -> str:
    """What Moses makes of dots and a quote, if that is what was found."""
    return found[0] if found[2] is None else f'"{found[1]}{found[2]}'


class LinearTokenizer(MosesTokenizer):
    """Doesn't make a set of all letters for each word that ends with a period.

    Nor does it look from every DOT of a text to the last one: Moses writes ``DOTDOTMULTI`` for
    two dots, and takes it back.
    """

    MULTIDOT_MARKER = re.compile(r"(?:DOT)+(MULTI)?")  # a row without the end is passed over

    def __init__(self, language: str) -> None:
        super().__init__(language)
        self.lower, self.alpha = frozenset(self.IsLower), frozenset(self.IsAlpha)
        for name in ("NONBREAKING_PREFIXES", "NUMERIC_ONLY_PREFIXES"):  # lists are slow to search
            setattr(self, name, frozenset(getattr(self, name)))

    def restore_multidots(self, text: str) -> str:
        """Write the dots again."""
        restored: str = self.MULTIDOT_MARKER.sub(
            lambda found: "." * ((len(found[0]) - 5) // 3) if found[1] else found[0], text
        )
        return restored

    def islower(self, text: str) -> bool:
        """Whether no other letter is in it."""
        return self.lower.issuperset(text)

    def isanyalpha(self, text: str) -> bool:
        """Whether a letter is in it."""
        return not self.alpha.isdisjoint(text)


# ---------------------------------------------------------------- BPE

LONG_WORD = 64  # characters; shorter ones are the library's


def segment_word(bpe: Any, word: str) -> list[str]:
    """Return what ``BPE.segment_tokens([word])`` of subword-nmt does, without glossaries."""
    if len(word) <= LONG_WORD:
        pieces: list[str] = bpe.segment_tokens([word])
        return pieces
    if bpe.version == (0, 1):
        symbols = [*word, END_OF_WORD]
    else:
        symbols = [*word[:-1], word[-1] + END_OF_WORD]
    pieces = merged(symbols, bpe.bpe_codes)
    pieces[-1] = pieces[-1].removesuffix(END_OF_WORD)
    pieces = [piece for piece in pieces if piece]
    return [*(piece + bpe.separator for piece in pieces[:-1]), pieces[-1]]


def merged(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merge pairs of neighbours, the one of the lowest rank first, wherever it stands.

    The library looks at the whole word for each merge; here a heap holds the places of what can
    be merged.
    """
    count = len(symbols)
    following, previous = list(range(1, count + 1)), list(range(-1, count - 1))
    heap: list[tuple[int, int]] = []

    def offer(left: int) -> None:
        if left >= 0 and (right := following[left]) < count:
            rank = ranks.get((symbols[left], symbols[right]))
            if rank is not None:
                heapq.heappush(heap, (rank, left))

    for left in range(count):
        offer(left)
    while heap:
        rank = heap[0][0]
        changed = []
        while heap and heap[0][0] == rank:  # from left to right
            left = heapq.heappop(heap)[1]
            right = following[left]
            if right == count or ranks.get((symbols[left], symbols[right])) != rank:
                continue  # one of the two was merged with something else
            symbols[left] += symbols[right]
            symbols[right] = ""
            following[left] = following[right]
            if following[left] < count:
                previous[following[left]] = left
            changed.append(left)
        for left in changed:
            offer(previous[left])
            offer(left)
    return [symbol for symbol in symbols if symbol]
