"""Writes the recall task: two symbols, many dots, and the same symbols again.

    keep g 3 . . . . . . . . . . . . . . . . . . . . . . . . recall g 3

In training there are none to DOTS dots, mostly few (what is near teaches what is far), and in one
line of ten all DOTS. In testing there are always DOTS.

usage: make_data.py FOLDER
"""

import random
import sys
from pathlib import Path

KEPT = ("abcdefgh", "12345678")  # one of each
DOTS = 24
SIZES = {"train": 20_000, "valid": 200, "test": 500}


def main() -> None:
    """Write FOLDER/{train,valid,test}."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    for split, size in SIZES.items():
        lines = []
        for _ in range(size):
            kept = [generator.choice(kind) for kind in KEPT]
            dots = DOTS
            if split == "train":
                dots = min(DOTS, int(1.25 * DOTS * generator.random() ** 2))
            lines.append(" ".join(["keep", *kept, *["."] * dots, "recall", *kept]))
        (folder / split).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
