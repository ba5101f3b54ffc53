"""German-English documents: chapters of the Bible, pages of LibreOffice's help. See the README.

    python texts.py verses|help CACHE RAW

fetches what it needs into CACHE and writes RAW/{train,valid,test}.{de,en}, a sentence or paragraph
a line and an empty line behind each document, and RAW/reference.{de,en}, the test set without the
empty lines. Whole documents go to one split, and no line of validation or test text occurs in the
training text.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.progress import show

from examples.quickstart import bible

Pair = tuple[str, str]  # German, English
Document = list[Pair]

PACKAGES = {"de": "libreoffice-help-de", "en": "libreoffice-help-en-us"}
FOLDERS = {"de": "de", "en": "en-US"}  # in usr/share/libreoffice/help
HELD_OUT = {"test": 150, "valid": 100}  # pages of the help; the rest is for training
COPIES = 3  # of a pair in the training text: the help says "Press Enter" a hundred times


# ---------------------------------------------------------------- chapters


def chapters(cache: Path) -> dict[str, list[Document]]:
    """The quickstart's verses in its splits, in documents."""
    return {
        name: [
            [(verse.german, verse.english) for verse in verses]
            for _, verses in groupby(pairs, key=lambda verse: (verse.book, verse.chapter))
        ]
        for name, pairs in bible.split(bible.fetch_verses(cache)).items()
    }


# ---------------------------------------------------------------- pages of the help


class Paragraphs(HTMLParser):
    """The texts of a page of the help by their names, in order."""

    TAGS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.inside: tuple[str, str] | None = None  # the tag and its name
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Hook of the parser's."""
        name = dict(attrs).get("id") or ""
        if tag in self.TAGS:
            known = name.startswith(("par_id", "hd_id")) and name not in self.texts
            self.inside = (tag, name) if known else None
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        """Hook of the parser's."""
        if self.inside and tag == self.inside[0]:
            self.inside = None

    def handle_data(self, data: str) -> None:
        """Hook of the parser's."""
        if self.inside:
            name = self.inside[1]
            self.texts[name] = self.texts.get(name, "") + data


def paired(german: str, english: str) -> Document:
    """The texts that both pages have, but for those that say nothing or were not translated."""
    translated = Paragraphs(german).texts
    pairs = []
    for name, text in Paragraphs(english).texts.items():
        pair = " ".join(translated.get(name, "").split()), " ".join(text.split())
        if pair[0] != pair[1] and all(any(c.isalpha() for c in side) for side in pair):
            pairs.append(pair)
    return pairs


def fetch_help(cache: Path) -> dict[str, Path]:
    """The help's pages in both languages, unpacked."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise TextError(
            "the help comes with Debian's or Ubuntu's packages, and there is no apt-get here; "
            "take verses, or a machine (or container) that has it"
        )
    unpacked = cache / "help"
    if not unpacked.is_dir():
        with bible.partial_folder(cache) as partial:
            command = ["apt-get", "download", *PACKAGES.values()]
            show(command)
            if subprocess.run(command, cwd=partial).returncode:
                raise TextError(
                    "apt-get could not fetch the packages; `apt-get update` may help (as root)"
                )
            for package in sorted(partial.glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, partial / "pages"], check=True)
            os.rename(partial / "pages", unpacked)
    pages = unpacked / "usr/share/libreoffice/help"
    found = {side: pages / folder / "text" for side, folder in FOLDERS.items()}
    for folder in found.values():
        if not folder.is_dir():
            raise TextError(f"{folder} is not there: the packages are others than we know")
    return found


def pages(cache: Path) -> dict[str, list[Document]]:
    """The help's pages in their splits: by a hash of their names, so always the same."""
    folders = fetch_help(cache)
    names = [
        path.relative_to(folders["en"])
        for path in folders["en"].rglob("*.html")
        if (folders["de"] / path.relative_to(folders["en"])).is_file()
    ]
    names.sort(key=lambda name: hashlib.sha256(str(name).encode()).hexdigest())
    documents = [
        paired(*((folders[side] / name).read_text(encoding="utf-8") for side in ("de", "en")))
        for name in names
    ]
    return split_pages([document for document in documents if document])


def split_pages(documents: list[Document]) -> dict[str, list[Document]]:
    """Held out are the first ones; what they say leaves the rest, and so do many copies."""
    splits, begin = {}, 0
    for name, count in HELD_OUT.items():
        splits[name] = documents[begin : begin + count]
        begin += count
    taken = {text for held in splits.values() for pairs in held for pair in pairs for text in pair}
    copies: Counter[Pair] = Counter()
    splits["train"] = []
    for document in documents[begin:]:
        kept = []
        for pair in document:
            copies[pair] += 1
            if copies[pair] <= COPIES and not taken & set(pair):
                kept.append(pair)
        if kept:
            splits["train"].append(kept)
    return splits


# ---------------------------------------------------------------- write


def write(splits: dict[str, list[Document]], raw: Path) -> None:
    """All files or none."""
    partial = raw.with_name(raw.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for side, language in enumerate(("de", "en")):
        for name, documents in splits.items():
            texts = [_joined(pair[side] for pair in document) for document in documents]
            (partial / f"{name}.{language}").write_text("\n".join(texts), encoding="utf-8")
        reference = _joined(pair[side] for document in splits["test"] for pair in document)
        (partial / f"reference.{language}").write_text(reference, encoding="utf-8")
    os.rename(partial, raw)


def _joined(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def main(kind: str, cache: Path, raw: Path) -> None:
    """Fetch and write; nothing if it is there."""
    if raw.exists():
        print(f"{raw} is there already")
        return
    splits = chapters(cache) if kind == "verses" else pages(cache)
    write(splits, raw)
    counts = ", ".join(
        f"{name} {sum(map(len, splits[name])):,} in {len(splits[name]):,}"
        for name in ("train", "valid", "test")
    )
    print(f"pairs in documents: {counts}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("verses", "help"):
        sys.exit("texts.py: usage: texts.py verses|help CACHE RAW")
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except TextError as error:
        sys.exit(f"texts.py: {error}")
    except OSError as error:
        place = error.filename or sys.argv[3]
        sys.exit(f"texts.py: {place}: {error.strerror}; free some space or choose another folder")
