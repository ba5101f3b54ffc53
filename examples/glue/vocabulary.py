"""A vocabulary of word pieces for a text, and the text as numbers for pre-training.

    python vocabulary.py TEXT OUT WORDS [FLAG ...]

writes OUT/tokenizer.json, OUT/dict.txt, OUT/flags.txt (the FLAGs) and OUT/data, fairseq's binarised
data for its task masked_lm; one line in twenty, by its hash, is for validation.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_mem_text.errors import TextError
from glue import Pieces, text_of, write_numbers

from fairseq_mem.wordpiece import CONTINUED, NAME, UNKNOWN, import_tokenizers, make_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = [UNKNOWN, "[PAD]", "[CLS]", "[SEP]", "[MASK]"]


def learned(lines: list[str], words: int) -> Tokenizer:
    """A tokenizer with a vocabulary of so many pieces; the same lines give the same."""

    def made(vocabulary: dict[str, int]) -> Tokenizer:
        return make_tokenizer(vocabulary, lowercase=True, strip_accents=None, chinese=True)

    tokenizer = made({UNKNOWN: 0})
    split, normal = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    inner = {letter for line in lines for word, _ in split(normal(line)) for letter in word[1:]}
    # The library would number them in another order in every run, and settle ties by the numbers.
    first = [*SPECIAL, *(CONTINUED + letter for letter in sorted(inner))]
    trainer = import_tokenizers().trainers.WordPieceTrainer(
        vocab_size=words, special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return made(tokenizer.get_vocab())  # anew: in text, what is spelled like a sign is no sign


def main(text: Path, out: Path, words: int, flags: list[str]) -> None:
    lines = [line for line in text_of(text).splitlines() if line.strip()]
    tokenizer = learned(lines, words)
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(
        (word for word in vocabulary if word not in SPECIAL), key=lambda word: vocabulary[word]
    )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save(str(partial / NAME))
    (partial / "dict.txt").write_text("".join(f"{word} 1\n" for word in pieces), encoding="utf-8")
    (partial / "flags.txt").write_text(" ".join(flags) + "\n", encoding="utf-8")
    cut = Pieces(partial)
    splits: dict[str, list[list[int]]] = {"train": [], "valid": []}
    for line in lines:
        held_out = hashlib.sha256(line.encode()).digest()[0] % 20 == 0
        splits["valid" if held_out else "train"] += cut.numbers((line,), 500)
    for split, rows in splits.items():
        if not rows:
            raise TextError(f"{text} has no line for {split}; give more text")
        write_numbers(rows, len(cut.words), partial / "data" / split)
    shutil.copyfile(partial / "dict.txt", partial / "data" / "dict.txt")
    partial.replace(out)
    tokens = sum(map(len, splits["train"]))
    print(f"{out}: {len(cut.words)} pieces, {len(lines)} lines, {tokens} tokens to learn from")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    except (TextError, OSError) as problem:
        sys.exit(f"vocabulary.py: {problem}")
