"""sacremoses' normalizer and tokenizer: the same text, many times faster.

sacremoses runs some seventy substitutions over every line. Two observations save nearly all of it:

- a substitution can only change a line that holds the characters which it looks for, so that one
  is tried only where they are (`Normalizer`);
- what the tokenizer makes of a word, of what stands between two spaces, seldom depends on the
  words around it, so that each word is given to sacremoses once and remembered (`Tokenizer`). Where
  it does depend, the whole line is given to sacremoses.
"""

import re
from collections.abc import Callable
from typing import Any

REMEMBERED_WORDS = 200_000  # of one language in one process: some 30 MB

# ---------------------------------------------------------------- normalizing

SPECIAL = re.compile(r"(?<!\\)[.^$*+?{}\[\]|()]|\\[A-Za-z0-9]")
PIECES = re.compile(
    r"\\.|\[(?:\\.|[^\]])*\]|\((?:\\.|\[(?:\\.|[^\]])*\]|[^()\\\[])*\)|.", re.DOTALL
)


def needed_text(pattern: str) -> str:
    """The longest text that every match of `pattern` holds; empty if there may be none."""
    pieces, best, current = PIECES.findall(pattern), "", ""
    if "|" in pieces:
        return ""
    for piece, following in zip(pieces, [*pieces[1:], ""]):
        letter = piece[1:] if re.fullmatch(r"\\[^A-Za-z0-9]", piece) else piece
        if len(letter) > 1 or SPECIAL.match(piece) or following in ("*", "?", "{"):
            current = ""
        else:
            current += letter
            best = max(best, current, key=len)
        if following == "+":
            current = ""
    return best


Replacement = str | Callable[[re.Match[str]], str]


def substitution(pattern: str, replacement: Replacement) -> tuple[str, Callable[[str], str]]:
    """A text without which the substitution changes nothing, and the substitution."""
    substitute = re.compile(pattern).sub
    if not isinstance(replacement, str):  # dots before a quote
        needed = '."'
    elif pattern == " +" and replacement == " ":
        needed = "  "  # one space alone stays as it is
    elif pattern == r"\r" and "\\" not in replacement:
        return "\r", lambda text: text.replace("\r", replacement)
    elif not SPECIAL.search(pattern) and "\\" not in replacement:
        literal = re.sub(r"\\(.)", r"\1", pattern)
        return literal, lambda text: text.replace(literal, replacement)
    else:
        needed = needed_text(pattern)
    return needed, lambda text: substitute(replacement, text)


class Normalizer:
    """`MosesPunctNormalizer.normalize`; with `printable`, `--remove-control-chars`."""

    def __init__(self, library: Any, printable: bool) -> None:
        self.steps = [substitution(*step) for step in library.substitutions]
        self.remove = library.remove_control_chars if printable else None

    def __call__(self, text: str) -> str:
        for needed, substitute in self.steps:
            if needed in text:
                text = substitute(text)
        text = text.strip()
        # Python's printable characters are none of Unicode's C, in any version of it.
        if self.remove and not text.isprintable():
            text = self.remove(text).strip()
        return text


# ---------------------------------------------------------------- tokenizing


# What becomes of a word: always the same; or with a lower-case letter, with a digit, with
# something else (or nothing) behind it; or None: ask sacremoses for the whole line.
Tokenized = str | tuple[str, str, str] | None


class Tokenizer(dict[str, Tokenized]):
    """`MosesTokenizer.tokenize(text, aggressive_dash_splits=True, return_str=True)`.

    The dictionary holds words and what becomes of them.
    """

    def __init__(self, library: Any) -> None:
        super().__init__()
        self.library = library
        self.plain = re.compile(f"[{self.library.IsAlnum}]+")
        self.no_marks = frozenset(".,'`")
        # These languages' rules for apostrophes look at what is on both sides.
        self.apostrophes_join = library.lang in ("en", "fr", "it")

    def by_library(self, text: str) -> str:
        # As fairseq's `--tokenizer moses` does it.
        tokenized: str = self.library.tokenize(
            text, aggressive_dash_splits=True, return_str=True, escape=True
        )
        return tokenized

    def __missing__(self, word: str) -> Tokenized:
        if len(self) >= REMEMBERED_WORDS:
            self.clear()
        self[word] = tokenized = self.tokenize_word(word)
        return tokenized

    def tokenize_word(self, word: str) -> Tokenized:
        if (
            "DOTMULTI" in word  # how sacremoses marks several dots
            or min(word) < " "
            or (word[0] == "," and word != ",")  # depends on what is before
            or (self.apostrophes_join and "'" in (word[0], word[-1]))
        ):
            return None
        if self.plain.fullmatch(word):
            return word
        body, last = word[:-1], word[-1]
        if self.no_marks.isdisjoint(word):
            return self.split_marks(word)
        if last == "," and self.no_marks.isdisjoint(body) and body:
            return self.split_marks(body) + " ,"
        if last == "." and self.plain.fullmatch(body):
            return self.with_period(body)
        if word[-1] != "." or word[-2:] == "..":
            return self.by_library(word)
        # A period stays at an abbreviation, depending on what comes after it.
        before_lower, before_digit, before_other = (
            self.by_library(f"{word} {following}")[:-2] for following in "a1A"
        )
        if before_lower == before_digit == before_other:
            return before_other
        return before_lower, before_digit, before_other

    def split_marks(self, word: str) -> str:
        """Of a word without `no_marks`: only these two of sacremoses' rules apply."""
        for pattern, replacement in (
            self.library.PAD_NOT_ISALNUM,
            self.library.AGGRESSIVE_HYPHEN_SPLIT,
        ):
            word = pattern.sub(replacement, word)
        escaped: str = self.library.escape_xml(" ".join(word.split()))
        return escaped

    def with_period(self, body: str) -> Tokenized:
        """Of letters and digits with a period behind them."""
        numeric = body in self.library.NUMERIC_ONLY_PREFIXES
        if body in self.library.NONBREAKING_PREFIXES and not numeric:
            return f"{body}."
        return f"{body}.", f"{body}." if numeric else f"{body} .", f"{body} ."

    def __call__(self, text: str) -> str:
        words = text.split()
        tokens: list[str] = []
        for at, word in enumerate(words, 1):
            tokenized = self[word]
            if tokenized.__class__ is not str:
                if tokenized is None:
                    return self.by_library(text)
                following = words[at][0] if at < len(words) else ""
                if following in self.library.lower:
                    tokenized = tokenized[0]
                else:
                    tokenized = tokenized[1 if "0" <= following <= "9" else 2]
            tokens.append(tokenized)
        return " ".join(tokens)
