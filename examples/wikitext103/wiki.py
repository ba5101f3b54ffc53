"""Wikipedia as text for a language model: WikiText-103, or the few articles that gensim brings.

    python wiki.py fetch URL SHA256 ARCHIVE    fetches WikiText-103's archive, or goes on with it
    python wiki.py wikitext103 ARCHIVE TEXT    unpacks the archive's three splits
    python wiki.py small CACHE TEXT            fetches, extracts, tokenises and splits the articles

The last two write TEXT/{train,valid,test}.txt in the style of WikiText: words separated by spaces,
a paragraph a line, headings between equals signs, whole articles in one split. The same input
gives the same files, byte for byte.
"""

from __future__ import annotations

import bz2
import hashlib
import html
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import Source, fetch, fetch_package
from fairseq_mem_text.files import unpacking

SPLITS = ("train", "valid", "test")

# Only data is wanted of the wheel, so one and the same is fetched on every machine.
PACKAGE = "gensim==4.4.0"
PLATFORM = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"]
PLATFORM += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"]
WHEEL = "gensim-4.4.0-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
WHEEL_SHA256 = "4b73ff30af6ddd0d2ddf9473b1eb44603cd79ec14c87d93b75291802b991916c"
ARTICLES = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
HELD_OUT = 7  # articles for validation, and as many for the test
SHORTEST_ARTICLE = 100  # words
SHORTEST_PARAGRAPH = 5


# ---------------------------------------------------------------- WikiText-103


def unpack(archive: Path, folder: Path) -> None:
    """Write the splits of the word-level archive."""
    with unpacking(archive), zipfile.ZipFile(archive) as zipped:
        names = zipped.namelist()
        for split in SPLITS:
            found = [name for name in names if name.endswith(f"/wiki.{split}.tokens")]
            if len(found) != 1:
                raise TextError(f"{archive} has no wiki.{split}.tokens; is it wikitext-103-v1.zip?")
            with zipped.open(found[0]) as text, open(folder / f"{split}.txt", "wb") as out:
                shutil.copyfileobj(text, out)


# ---------------------------------------------------------------- gensim's articles


def articles(wheel: Path) -> Iterator[tuple[str, str]]:
    """Title and wiki markup of every article; a redirection is one without text."""
    with zipfile.ZipFile(wheel) as zipped, zipped.open(ARTICLES) as packed:
        root = ElementTree.parse(bz2.open(packed)).getroot()
    space = root.tag.removesuffix("mediawiki")
    for page in root.iter(f"{space}page"):
        if page.findtext(f"{space}ns") == "0":
            yield page.findtext(f"{space}title") or "", page.findtext(f".//{space}text") or ""


# Sections that are lists of something else
APPENDIX = re.compile(
    r"(see also|(foot)?notes?|references|citations|sources|bibliography|further reading|"
    r"external links|works|publications|filmography|discography|gallery)\b.*",
    re.IGNORECASE,
)
BLOCKS = "ref|gallery|timeline|imagemap|syntaxhighlight|source|score|pre|table|div|code"


def plain(markup: str) -> list[str]:
    """Paragraphs and headings (``== Title ==``) of an article's markup."""
    text = re.sub(r"<!--.*?-->", "", markup, flags=re.DOTALL)
    text = re.sub(r"<math\b[^>]*>.*?</math>", "formula", text, flags=re.DOTALL)
    text = re.sub(r"<ref\b[^>]*/>", "", text)
    text = re.sub(rf"<({BLOCKS})\b[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    text = until_stable(r"\{\{([^{}]*)\}\}", template, text)
    text = until_stable(r"\{\|(?:(?!\{\|).)*?\|\}", "", text)
    text = until_stable(r"\[\[([^\[\]]*)\]\]", link, text)
    text = re.sub(r"\[(?:https?:)?//\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"'{2,}|<[^>]+>|__[A-Z]+__", "", text)
    text = re.sub(r"\((?:[\s,;:]|or)*\)", "", html.unescape(text))  # what a template leaves behind
    lines: list[str] = []
    skipped = 0  # level of the section that is left out
    for line in text.split("\n"):
        line = re.sub(r"\s+", " ", line).strip()
        if heading := re.fullmatch(r"(=+) ?(.*?) ?\1", line):
            level = len(heading[1])
            if not skipped or level <= skipped:
                skipped = level if APPENDIX.fullmatch(heading[2]) else 0
            if not skipped:
                lines.append(line)
        elif not skipped and is_paragraph(line):
            lines.append(line)
    # a heading with nothing under it
    return [
        line for line, after in zip(lines, [*lines[1:], "="])
        if not line.startswith("=") or not after.startswith("=")
        or level_of(after) > level_of(line)
    ]  # fmt: skip


def is_paragraph(line: str) -> bool:
    """Whether a line is text: no list, no rest of a table, no single words."""
    marks = line.startswith(tuple("*#:;|!{}")) or "|" in line
    return not marks and len(line.split()) >= SHORTEST_PARAGRAPH


def level_of(heading: str) -> int:
    return len(heading) - len(heading.lstrip("="))


def until_stable(pattern: str, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
    """Replace from the inside out, for what may be nested."""
    found = 1
    while found:
        text, found = re.subn(pattern, replacement, text, flags=re.DOTALL)
    return text


def template(match: re.Match) -> str:
    """What a reader sees of a template, as far as that is in it: mostly nothing."""
    name, *parts = [part.strip() for part in match[1].split("|")]
    values = [part for part in parts if "=" not in part]
    if name.lower() in ("convert", "cvt") and len(values) > 1:
        return f"{values[0]} {values[1]}"
    if name.lower() == "lang" and len(values) > 1:
        return values[1]
    return ""


def link(match: re.Match) -> str:
    """A link's words; nothing for a picture or a category."""
    target, _, words = match[1].partition("|")
    if re.match(r"\s*(file|image|category|media|[a-z-]{2,12}):\S", target, re.IGNORECASE):
        return ""
    return (words or target).split("|")[-1].lstrip(":")


def small(wheel: Path, folder: Path) -> None:
    """Write the splits: which article goes where is decided by its title's hash."""
    from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer("en")
    found: list[tuple[str, list[str]]] = []
    for title, markup in articles(wheel):
        lines = plain(markup)
        if sum(len(line.split()) for line in lines) >= SHORTEST_ARTICLE:
            found.append((title, [f"= {title} =", *lines]))
    order = sorted(range(len(found)), key=lambda i: hashlib.sha256(found[i][0].encode()).digest())
    held_out = {number: "test" for number in order[:HELD_OUT]}
    held_out |= {number: "valid" for number in order[HELD_OUT : 2 * HELD_OUT]}
    files = {split: open(folder / f"{split}.txt", "w", encoding="utf-8") for split in SPLITS}
    words = dict.fromkeys(SPLITS, 0)
    for number, (_, lines) in enumerate(found):
        split = held_out.get(number, "train")
        for line in lines:
            if heading := re.fullmatch(r"(=+) ?(.*?) ?\1", line):
                signs = " ".join(heading[1])
                tokens = [signs, *tokenizer.tokenize(heading[2], escape=False), signs]
            else:
                tokens = tokenizer.tokenize(line, aggressive_dash_splits=True, escape=False)
            words[split] += len(tokens)
            files[split].write(" ".join(tokens) + "\n")
    for file in files.values():
        file.close()
    counts = ", ".join(f"{split} {count:,}" for split, count in words.items())
    print(f"{len(found)} articles; words: {counts}", flush=True)


def main(kind: str, *words: str) -> None:
    if kind == "fetch":
        url, sha256, archive = words
        fetch(Source(url, sha256, None, "set URL to another mirror"), Path(archive))
        return
    source, target = map(Path, words)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if kind == "small":
        options = ("--only-binary", ":all:", *PLATFORM)
        small(fetch_package(PACKAGE, source / WHEEL, WHEEL_SHA256, *options), partial)
    else:
        unpack(source, partial)
    partial.replace(target)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (TextError, OSError, zipfile.BadZipFile) as problem:
        sys.exit(f"wiki.py: {problem}")
    except KeyboardInterrupt:
        sys.exit("wiki.py: interrupted; run the same command again to continue")
