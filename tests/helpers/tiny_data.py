"""Binarised data for a tiny training of every task, made in forks of this process."""

import random
from pathlib import Path

from helpers import kills

NAMES = "null eins zwei drei vier fünf sechs sieben acht neun".split()


def preprocess(*words: object) -> None:
    """`fairseq-preprocess`."""

    def program() -> None:
        from fairseq import options
        from fairseq_cli.preprocess import main

        main(options.get_preprocessing_parser().parse_args(list(map(str, words))))

    ended = kills.run(program, Path(str(words[-1])))
    assert ended.status == 0, ended.said


def make(folder: Path) -> Path:
    """`pairs` (with documents of 1 to 6 sentences), `text` and `labelled`."""
    numbers = random.Random(0)
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 60), ("valid", 8), ("test", 5)):
        rows: dict[str, list[str]] = {"de": [], "en": [], "documents": [], "label": []}
        while len(rows["de"]) < count:
            document = len(rows["de"])
            for _ in range(min(numbers.randrange(1, 7), count - document)):
                digits = [numbers.randrange(10) for _ in range(numbers.randrange(2, 8))]
                rows["de"].append(" ".join(map(str, digits)))
                rows["en"].append(" ".join(NAMES[digit] for digit in digits))
                rows["documents"].append(f"document {document}")
                rows["label"].append("odd" if digits[0] % 2 else "even")
        for name, lines in rows.items():
            (raw / f"{split}.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    of_each = {
        name: [w for s in ("train", "valid", "test") for w in (f"--{s}pref", raw / f"{s}{name}")]
        for name in ("", ".de", ".label")
    }
    both = ["--source-lang", "de", "--target-lang", "en", "--joined-dictionary"]
    one = ["--only-source", "--workers", "1"]
    text, labelled = folder / "text", folder / "labelled"
    preprocess(*both, *of_each[""], "--workers", "1", "--destdir", folder / "pairs")
    preprocess(*one, *of_each[".de"], "--destdir", text)
    preprocess(*one, *of_each[".de"], "--destdir", labelled / "input0")
    preprocess(*one, *of_each[".label"], "--destdir", labelled / "label")
    for split in ("train", "valid", "test"):
        (folder / f"pairs/{split}.documents").write_bytes((raw / f"{split}.documents").read_bytes())
    return folder
