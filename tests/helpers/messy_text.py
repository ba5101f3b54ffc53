"""Lines of all that the rules of Moses look for, and the merges that our code learns."""

import random

from fairseq_mem_text.segmenting import learned_merges

# Pieces of text that the rules of Moses look for, beside each other as they may come.
PIECES = [
    "a", "Z", "er", "ging", "Dr", "Nr", "z.B", "U.S", "8", "30", "1.000", "don't", "l'eau", "s'",
    "DOTMULTI", "DOT", "\u00e4\u00df", "\u00e9", "\u65e5\u672c", "\u0661", "\u1fbd", "\U0001f600",
    ".", "..", "...", ",", ",,", "'", "''", '"', "`", "``", "-", "--", "–", "—", "„", "“", "”",
    "‘", "‚", "’", "´", "«", "»", "…", "(", ")", "[", "]", "{", "}", "<", ">", "</b>", "&",
    "&amp;", "|", "/", "@", "#", "%", "$", "€", "§", ":", ";", "!", "?", "=", "+", "*", "º", "nº",
    "\u00a0", "\u00ad", "\u200b", "\u2028", "\u0085", "\t", "\x01", "\x1c", "\x7f", "\ufeff",
    " ", " ", " ", " ", " ", "  ",
]  # fmt: skip


def messy_lines(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 24))) for _ in range(count)]


def learned(words: dict[str, int], merges: int) -> list[str]:
    return list(learned_merges(words, merges))
