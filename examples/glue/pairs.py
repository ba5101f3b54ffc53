"""Pairs of sentences from documents: does the second one follow the first? (BERT's second task.)

    python pairs.py TEXT OUT [--rows N]

TEXT has a sentence a line and an empty line behind each document, as preprocess.sh --documents
reads it. OUT gets the columns sentence1, sentence2 and label: 1 for neighbours, 0 where the second
is of another document. Half of the rows are of each kind, and the same text gives the same rows.
"""

from __future__ import annotations

import argparse
import random
import sys
from itertools import pairwise
from pathlib import Path

from fairseq_mem_text.arguments import positive
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.files import replacing
from glue import text_of


def documents(path: Path) -> list[list[str]]:
    """The documents' sentences; tabs in them become spaces."""
    found: list[list[str]] = [[]]
    for line in text_of(path).splitlines():
        if words := line.split():
            found[-1].append(" ".join(words))
        elif found[-1]:
            found.append([])
    return [one for one in found if one]


def pairs(texts: list[list[str]], rows: int, chance: random.Random) -> list[tuple[str, str, int]]:
    """At most so many rows in random order, every neighbour in one of them at most.

    Raises:
        TextError: there are fewer than two documents, or none of two sentences, or ``rows`` is
            below 2.
    """
    if rows < 2:
        raise TextError(f"--rows {rows}: give at least 2, one of each kind")
    places = [(number, *pair) for number, text in enumerate(texts) for pair in pairwise(text)]
    if len(texts) < 2 or len(places) < 2:
        raise TextError(
            f"{len(texts)} documents with {len(places)} neighbours in all: give more text, with an "
            "empty line behind each document"
        )
    chance.shuffle(places)
    rows = min(rows, len(places)) // 2 * 2
    made = []
    for row, (number, first, second) in enumerate(places[:rows]):
        if row % 2:
            other = chance.randrange(len(texts) - 1)
            second = chance.choice(texts[other + (other >= number)])
        made.append((first, second, 1 - row % 2))
    return made


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="pairs.py")
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=positive, default=8000, metavar="N", help="default: 8000")
    args = parser.parse_args()
    made = pairs(documents(args.text), args.rows, random.Random(1))
    lines = ["sentence1\tsentence2\tlabel", *("\t".join(map(str, row)) for row in made)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(made):,} pairs")


if __name__ == "__main__":
    try:
        main()
    except (TextError, OSError) as problem:
        sys.exit(f"pairs.py: {problem}")
