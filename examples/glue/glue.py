"""Classification and regression data: GLUE's tasks, or TSV files, as numbers for fairseq.

    python glue.py CACHE OUT --model FOLDER --task NAME
    python glue.py CACHE OUT --model FOLDER --task NAME --train FILE [--valid FILE --test FILE]

writes OUT/{input0,input1,label} (fairseq's sentence_prediction), OUT/text (what was read) and
OUT/settings.txt. The same input gives the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import math
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from fairseq_mem_text.arguments import positive
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.files import unpacking

SPLITS = ("train", "valid", "test")
Row = tuple[str, ...]  # target, sentence, and the second sentence of a pair


@dataclass(frozen=True)
class Task:
    """One of GLUE's tasks.

    Attributes:
        archive: in the cache; empty for MRPC, which comes in parts.
        metrics: the first decides which checkpoint is best.
        length: tokens of a text, special symbols included; the authors'.
        target: column of the label or score: its name, or its place where there is no heading.
        sentences: columns of the sentence or the pair.
        dev: name of the file that is used for validation and test: the test set has no labels.
    """

    archive: str
    metrics: str
    length: int
    target: str | int
    sentences: tuple[str | int, ...]
    dev: str = "dev.tsv"
    regression: bool = False


TASKS = {
    "CoLA": Task("CoLA.zip", "Matthews accuracy", 64, 1, (3,)),
    "SST-2": Task("SST-2.zip", "accuracy", 64, "label", ("sentence",)),
    "STS-B": Task(
        "STS-B.zip", "Pearson Spearman", 64, "score", ("sentence1", "sentence2"), regression=True
    ),
    "MRPC": Task("", "F1 accuracy", 100, 0, (3, 4)),
    "QQP": Task("QQP.zip", "F1 accuracy", 128, "is_duplicate", ("question1", "question2")),
    "MNLI": Task(
        "MNLI.zip", "accuracy", 128, "gold_label", ("sentence1", "sentence2"), "dev_matched.tsv"
    ),
    "QNLI": Task("QNLIv2.zip", "accuracy", 128, "label", ("question", "sentence")),
    "RTE": Task("RTE.zip", "accuracy", 256, "label", ("sentence1", "sentence2")),
}


# ---------------------------------------------------------------- reading


def columns_of(
    text: str, source: str, target: str | int, sentences: Any, skip: bool = True
) -> Iterator[Row]:
    """The rows of tab-separated text; nothing is quoted.

    Args:
        text: what is in the file.
        source: the file's name.
        target: the column of the label or score, by its name or number.
        sentences: those of the text, likewise.
        skip: leave out what GLUE's own files have: lines that are cut short (QQP), labels on which
            the annotators did not agree (MNLI) and empty texts. Of anybody else's they are errors.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    wanted = [target, *sentences]
    places = [name for name in wanted if isinstance(name, int)]
    if not places:
        heading = next(reader, [])
        missing = [name for name in wanted if name not in heading]
        if missing:
            columns = shorten(", ".join(heading), 200, placeholder=" ...")
            raise TextError(f"{source} has no column {missing[0]!r}; its columns: {columns}")
        places = [heading.index(name) for name in wanted]
    for number, fields in enumerate(reader, start=2):
        if not fields:
            continue
        if len(fields) <= max(places):
            if skip and len(sentences) == 2:
                continue
            raise TextError(f"line {number} of {source} has {len(fields)} columns; it needs more")
        row = tuple(" ".join(fields[place].split()) for place in places)
        if skip and (row[0] == "-" or not all(row)):
            continue
        if not all(row):
            empty = wanted[row.index("")]
            raise TextError(f"line {number} of {source} has nothing in the column {empty!r}")
        yield row


def glue_task(cache: Path, name: str) -> dict[str, list[Row]]:
    """The splits of one of GLUE's tasks; validation and test are its development set."""
    task = TASKS[name]
    if name == "MRPC":
        texts = mrpc(cache)
        heading, wanted = 1, (task.target, task.sentences)
        found = {
            split: list(columns_of("".join(lines[heading:]), "MRPC", *wanted))
            for split, lines in texts.items()
        }
    else:
        found = {}
        with (
            unpacking(cache / task.archive),
            zipfile.ZipFile(cache / task.archive) as archive,
        ):
            for split, file in (("train", "train.tsv"), ("dev", task.dev)):
                member = [one for one in archive.namelist() if one.endswith(f"/{file}")
                          and "original" not in one and "__MACOSX" not in one]  # fmt: skip
                if len(member) != 1:
                    raise TextError(f"{cache / task.archive} has no {file}; fetch it again")
                text = archive.read(member[0]).decode("utf-8")
                found[split] = list(columns_of(text, member[0], task.target, task.sentences))
    return {"train": found["train"], "valid": found["dev"], "test": found["dev"]}


def mrpc(cache: Path) -> dict[str, list[str]]:
    """The lines of both parts of MRPC's training text: it has no development set of its own."""
    ids = (cache / "mrpc_dev_ids.tsv").read_text(encoding="utf-8").splitlines()
    held_out = {tuple(line.split("\t")) for line in ids}
    heading, *lines = (
        (cache / "msr_paraphrase_train.txt").read_text(encoding="utf-8-sig").splitlines(True)
    )
    parts: dict[str, list[str]] = {"train": [heading], "dev": [heading]}
    for line in lines:
        parts["dev" if tuple(line.split("\t")[1:3]) in held_out else "train"].append(line)
    return parts


def text_of(path: Path) -> str:
    """What is in somebody's file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} cannot be read: {error}") from None


def heading_of(text: str) -> list[str]:
    """The names of the columns."""
    return text.split("\n", 1)[0].rstrip("\r").split("\t")


def own_task(files: dict[str, Path | None], regression: bool) -> dict[str, list[Row]]:
    """The splits of somebody's TSV files; what is not given is split off the training text."""
    found = {}
    for split, path in files.items():
        if path is None:
            continue
        text = text_of(path)
        heading = heading_of(text)
        sentences = ["sentence"] if "sentence" in heading else ["sentence1"]
        sentences += [name for name in ("sentence2",) if name in heading]
        target = "score" if regression or "label" not in heading else "label"
        found[split] = list(columns_of(text, str(path), target, sentences, skip=False))
    for split in ("valid", "test"):
        if split not in found:
            found[split] = [row for row in found["train"] if fold(row) == split]
    if files["valid"] is None or files["test"] is None:
        off = [split for split in ("valid", "test") if files[split] is None]
        found["train"] = [row for row in found["train"] if fold(row) not in off]
    return found


def fold(row: Row) -> str:
    """Where a row goes: a tenth each for validation and test, by its text."""
    number = int.from_bytes(hashlib.sha256("\t".join(row[1:]).encode()).digest()[:4], "big") % 10
    return {0: "valid", 1: "test"}.get(number, "train")


# ---------------------------------------------------------------- numbers


class Pieces:
    """Text to the numbers of a model's dictionary.

    Args:
        model: a folder with ``dict.txt``, and with ``tokenizer.json`` where text is to be cut into
            pieces; without it text is words already.
    """

    def __init__(self, model: Path) -> None:
        from fairseq.data import Dictionary

        from fairseq_mem.wordpiece import WordPiece, find_tokenizer

        if not (model / "dict.txt").is_file():
            raise TextError(f"{model} has no dict.txt; give the folder that import-bert wrote")
        try:
            self.words = Dictionary.load(str(model / "dict.txt"))
        except Exception as error:  # fairseq has several kinds, and more than a line
            said = " ".join(str(error).split())
            raise TextError(f"{model / 'dict.txt'} is no dictionary: {said}") from None
        tokenizer = find_tokenizer(str(model))
        self.cut = WordPiece(tokenizer).pieces if tokenizer else str.split

    def numbers(self, texts: Row, length: int) -> list[list[int]]:
        """Each text's numbers with </s> at its end: with <s> in front, ``length`` at most.

        As BERT does it, the longer one of a pair loses its last words first.
        """
        found = [[self.words.index(piece) for piece in self.cut(text)] for text in texts]
        room = length - 1 - len(found)
        while sum(map(len, found)) > room:
            max(found, key=len).pop()
        return [[*numbers, self.words.eos()] for numbers in found]


def write_numbers(rows: list[list[int]], words: int, path: Path) -> None:
    """Write fairseq's ``path``.bin and ``path``.idx."""
    import torch
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

    path.parent.mkdir(parents=True, exist_ok=True)
    builder = MMapIndexedDatasetBuilder(f"{path}.bin", dtype=best_fitting_int_dtype(words))
    for numbers in rows:
        builder.add_item(torch.tensor(numbers))
    builder.finalize(f"{path}.idx")


def write_data(
    splits: dict[str, list[Row]], model: Path, out: Path, length: int, regression: bool
) -> list[str]:
    """Write all of the data but ``settings.txt``; returns the classes, none of a regression."""
    for split, rows in splits.items():
        if not rows:
            raise TextError(f"there is no row for {split}; give more text, or --{split}")
        if len({len(row) for row in rows}) > 1 or len(rows[0]) != len(splits["train"][0]):
            raise TextError("some rows are pairs and some are not; give one kind")
    pieces = Pieces(model)
    sentences = len(splits["train"][0]) - 1
    for split, rows in splits.items():
        numbers = [pieces.numbers(row[1:], length) for row in rows]
        if split != "test":  # by length: neighbours need little padding, see run.sh
            order = sorted(range(len(rows)), key=lambda row: sum(map(len, numbers[row])))
            numbers = [numbers[row] for row in order]
            rows = splits[split] = [rows[row] for row in order]
        for place in range(sentences):
            column = [one[place] for one in numbers]
            write_numbers(column, len(pieces.words), out / f"input{place}" / split)
        (out / "text").mkdir(exist_ok=True)
        text = "".join("\t".join(row) + "\n" for row in rows)
        (out / "text" / f"{split}.tsv").write_text(text, encoding="utf-8")
    for place in range(sentences):
        shutil.copyfile(model / "dict.txt", out / f"input{place}" / "dict.txt")
    (out / "label").mkdir()
    if regression:
        for split, rows in splits.items():
            for row in rows:
                check_score(row[0], split)
            scores = "".join(f"{row[0]}\n" for row in rows)
            (out / "label" / f"{split}.label").write_text(scores)
        return []
    return write_classes(splits, out / "label")


def check_score(text: str, split: str) -> None:
    """Refuse what is no finite number."""
    try:
        if math.isfinite(float(text)):
            return
    except ValueError:
        pass
    raise TextError(
        f"a score of {split} is {text[:40]!r}, which is no number; is it a classification?"
    )


def write_classes(splits: dict[str, list[Row]], folder: Path) -> list[str]:
    """Write the labels as numbers of classes, in the order of their names."""
    classes = sorted({row[0] for row in splits["train"]})
    for split, rows in splits.items():
        for row in rows:
            if row[0] not in classes:
                raise TextError(f"the class {row[0][:40]!r} of {split} does not occur in train")
    if not 2 <= len(classes) <= 1000:
        raise TextError(
            f"train has {len(classes)} classes; give 2 or more, or --regression for scores"
        )
    from fairseq.data import Dictionary

    # fairseq's criterion wants numbers for names
    counts = Counter(row[0] for row in splits["train"])
    lines = "".join(f"{number} {counts[name]}\n" for number, name in enumerate(classes))
    (folder / "dict.txt").write_text(lines)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    words = Dictionary.load(str(folder / "dict.txt"))
    for split, rows in splits.items():
        numbers = [[words.index(str(classes.index(row[0]))), words.eos()] for row in rows]
        write_numbers(numbers, len(words), folder / split)
    return classes


def main(args: argparse.Namespace) -> None:
    own = args.train is not None
    if own:
        files = {split: getattr(args, split) for split in SPLITS}
        heading = heading_of(text_of(args.train))
        regression = args.regression or "label" not in heading
        splits = own_task(files, regression)
        classes_of_all = {row[0] for row in splits["train"]}
        metrics = "Pearson Spearman" if regression else "accuracy"
        if not regression and classes_of_all == {"0", "1"}:
            metrics = "accuracy F1 Matthews"
        length = args.length or 128
    else:
        task = TASKS[args.task]
        splits, regression, metrics = (
            glue_task(args.cache, args.task),
            task.regression,
            task.metrics,
        )
        length = args.length or task.length
    partial = args.out.with_name(args.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    classes = write_data(splits, args.model, partial, length, regression)
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update((partial / "text" / f"{split}.tsv").read_bytes())
    settings = {
        "name": args.task, "kind": "regression" if regression else "classification",
        "classes": len(classes) or 1, "metrics": metrics, "length": length,
        "rows": " ".join(str(len(splits[split])) for split in SPLITS), "sha256": digest.hexdigest(),
    }  # fmt: skip
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    (partial / "settings.txt").write_text(lines, encoding="utf-8")
    shutil.rmtree(args.out, ignore_errors=True)
    partial.replace(args.out)
    rows = ", ".join(f"{split} {len(splits[split]):,}" for split in SPLITS)
    kind = f"{len(classes)} classes" if classes else "regression"
    print(f"{args.out}: {kind}; rows: {rows}", flush=True)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="glue.py")
    parser.add_argument("cache", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--task", required=True)
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=Path)
    parser.add_argument("--regression", action="store_true")
    parser.add_argument("--length", type=positive)
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        main(parse(sys.argv[1:]))
    except (TextError, OSError, csv.Error) as problem:
        sys.exit(f"glue.py: {problem}")
