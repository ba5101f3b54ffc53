"""Raw text to subword tokens and back, exactly as `preprocess.sh` made the training text."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

from sacremoses import MosesDetokenizer
from subword_nmt.apply_bpe import BPE

from .linear import segment_word
from .words import word_splitter

BPE_MARK = "@@"  # at the end of a piece that the next one continues
MARKS = frozenset(("<s>", "</s>"))  # fairseq's; never part of a text
MOST_CACHED_WORDS = 200_000
WORDS = re.compile(r"\w[^ ]*")  # what has a letter or a digit and stands between two spaces


class TooLong(ValueError):
    """A sentence has more tokens than the model takes.

    Attributes:
        length: its tokens with the end mark; of a very long sentence a lower bound.
        limit: what the model takes, with the end mark.
        index: which sentence of those given it was, from 0; None for a single one.
    """

    def __init__(self, length: int, limit: int, index: int | None = None) -> None:
        which = "the sentence" if index is None else f"sentence {index} (counted from 0)"
        super().__init__(
            f"{which} has {length:,} tokens or more, the model takes {limit:,} with the end mark; "
            "split it"
        )
        self.length, self.limit, self.index = length, limit, index


class TextPipeline:
    """What happens to text before and behind a model; safe to share between threads.

    Args:
        source_language: of the raw text; for the tokenizer's and normaliser's rules.
        target_language: of the translations; for the detokenizer's rules.
        codes: file of BPE merges; None if the model's tokens are whole words.
        tokenizer: ``"moses"``, or None if the text comes tokenised and stays so.
        normalize: normalise punctuation, as `preprocess.sh` does without `--no-normalize`.
        remove_nonprinting: take out control characters too, as with `--remove-nonprinting`.
        nfc: compose characters (Unicode's NFC) before normalising, as `preprocess.sh` does without
            `--no-nfc`; not for models of data that were made before it did.

    Raises:
        FileNotFoundError: there are no ``codes``.
        ValueError: an argument makes no sense, or ``codes`` is something else.
    """

    def __init__(
        self,
        source_language: str,
        target_language: str,
        *,
        codes: Path | None,
        tokenizer: str | None = "moses",
        normalize: bool = True,
        remove_nonprinting: bool = False,
        nfc: bool = False,
    ) -> None:
        if tokenizer not in ("moses", None):
            raise ValueError(f"tokenizer {tokenizer!r} is unknown; there is 'moses', and None")
        self.source_language, self.target_language = source_language, target_language
        self._split_words: Callable[[str], str] | None = None
        self._detokenizer = self._bpe = None
        if tokenizer == "moses":
            self._split_words = word_splitter(
                source_language,
                normalize=normalize,
                remove_nonprinting=remove_nonprinting,
                nfc=nfc,
                remember=False,
            )
            self._detokenizer = MosesDetokenizer(target_language)
        if codes is not None:
            said = io.StringIO()
            try:
                with open(codes, encoding="utf-8-sig") as lines, contextlib.redirect_stderr(said):
                    self._bpe = BPE(lines, separator=BPE_MARK)
                self._bpe.process_line("ab")  # a version that it does not know, it tells here
                self._bpe.cache.clear()
                merged = (left + right for left, right in self._bpe.bpe_codes)
                longest = max((len(m.replace("</w>", "")) for m in merged), default=1)
                if longest == 0:
                    raise ValueError("merges of nothing")
            except (SystemExit, ValueError, NotImplementedError):
                raise ValueError(f"{codes} holds no BPE merges of subword-nmt") from None
            self._longest_piece = longest

    def split(self, text: str, limit: int | None = None) -> list[str]:
        """Return the tokens of a raw sentence; none if it is blank.

        Raises:
            TooLong: there are more than ``limit`` tokens, the end mark counted.
        """
        line = text + "\n"  # preprocess.sh sees whole lines
        # What stands between two spaces stays at least one token.
        check_length(sum(1 for _ in WORDS.finditer(line)), limit)
        if self._split_words is not None:
            line = self._split_words(line)
        line = line.strip()
        if self._bpe is not None:
            # Before the work is done: the least that can come out.
            check_length(sum(-(-len(w) // self._longest_piece) for w in line.split()), limit)
            words = (segment_word(self._bpe, word) for word in line.split(" ") if word)
            line = " ".join(piece for pieces in words for piece in pieces)
            if len(self._bpe.cache) > MOST_CACHED_WORDS:
                # Another thread may be reading this one.
                self._bpe.cache = {}
        tokens = line.split()
        check_length(len(tokens), limit)
        return tokens

    def join(self, tokens: list[str]) -> str:
        """Return the text of a translation's tokens."""
        text = " ".join(token for token in tokens if token not in MARKS)
        if self._bpe is not None:
            text = (text + " ").replace(BPE_MARK + " ", "").rstrip()
        if self._detokenizer is not None:
            text = self._detokenizer.detokenize(text.split())
        return text


def check_length(tokens: int, limit: int | None) -> None:
    """Refuse a sentence of more tokens than ``limit``, the end mark counted."""
    if limit is not None and tokens + 1 > limit:
        raise TooLong(tokens + 1, limit)
