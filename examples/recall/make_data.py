"""Writes the recall task: some letters, many dots, and the same letters again.

    keep g 3 B . . . . . . . . . . . . . . . . . . . . . recall g 3 B

In training the number of dots varies from none to DOTS, so that what is near teaches what is far;
in testing there are always DOTS of them.

usage: make_data.py FOLDER
"""

import random
import sys
from pathlib import Path

KEPT = ("abcdefgh", "12345678", "ABCDEFGH")  # one of each
DOTS = 40
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
            dots = generator.randint(0, DOTS) if split == "train" else DOTS
            lines.append(" ".join(["keep", *kept, *["."] * dots, "recall", *kept]))
        (folder / split).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
