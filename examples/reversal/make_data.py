"""Writes the reversal task: lines of random letters, and the same lines backwards.

usage: make_data.py FOLDER
"""

import random
import sys
from pathlib import Path

LETTERS = "abcdefghijklmnop"
LENGTHS = range(4, 13)
SIZES = {"train": 20_000, "valid": 500, "test": 500}


def main() -> None:
    """Write FOLDER/{train,valid,test}.{src,tgt}; no line occurs twice, in one split or two."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    lines: dict[str, None] = {}  # a set that keeps the order
    while len(lines) < sum(SIZES.values()):
        length = generator.choice(LENGTHS)
        lines[" ".join(generator.choices(LETTERS, k=length))] = None
    rest = list(lines)
    generator.shuffle(rest)
    for split, size in SIZES.items():
        part, rest = rest[:size], rest[size:]
        backwards = [line[::-1] for line in part]
        for language, text in (("src", part), ("tgt", backwards)):
            (folder / f"{split}.{language}").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
