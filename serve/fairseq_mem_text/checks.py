"""Whether raw text is fit for use, and whether binarised data hold all of their text."""

import hashlib
import os
import struct
from array import array
from collections.abc import Sequence

from .errors import TextError
from .lines import is_empty, line_chunks, opened, text_chunks

BLOCK_BYTES = 1 << 20
INDEX_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the numbers, sentences
BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 4, 7: 8, 8: 2, 9: 4, 10: 8}  # fairseq's codes


def check_pair(paths: Sequence[str], max_tokens: int | None = None) -> list[tuple[str, int]]:
    """SHA-256 and number of lines of each file of a raw parallel text.

    Args:
        paths: of the source and of the target.
        max_tokens: see `check_file`.

    Raises:
        TextError: one is not fit for use, or they have unequal numbers of lines.
    """
    found = [check_file(path, max_tokens) for path in paths]
    lines = [count for _, count in found]
    if len(set(lines)) > 1:
        both = " and ".join(f"{path} has {count:,}" for path, count in zip(paths, lines))
        raise TextError(
            f"unequal numbers of lines: {both}; line N of one must translate the other's"
        )
    return found


def check_documents(paths: Sequence[str], some: bool) -> int:
    """The number of documents of a raw parallel text, which empty lines end.

    Args:
        paths: of the source and of the target, with equally many lines.
        some: whether there must be an empty line.

    Raises:
        TextError: a line is empty in one language alone, none is though there must be one, or there
            is nothing but empty lines.
    """
    documents, blank, number, blanks = 0, True, 0, 0
    with opened(paths[0]) as source, opened(paths[1]) as target:
        for chunks in zip(text_chunks(source), text_chunks(target)):
            for pair in zip(*chunks):
                number += 1
                empty = [is_empty(line) for line in pair]
                if empty[0] != empty[1]:
                    path, other = paths if empty[0] else (paths[1], paths[0])
                    raise TextError(
                        f"{path}, line {number:,} is empty and that of {other} is not; with "
                        "--documents an empty line ends a document, in both languages"
                    )
                documents += blank and not empty[0]
                blank = empty[0]
                blanks += blank
    if documents == 0 or (some and blanks == 0):
        raise TextError(
            f"{paths[0]} has no empty line; with --documents one ends each document"
            if documents
            else f"{paths[0]} has nothing but empty lines; give a file with one sentence a line"
        )
    return documents


def check_file(path: str, max_tokens: int | None) -> tuple[str, int]:
    """SHA-256 and number of lines of a raw text file that is fit for use.

    With `max_tokens` (validation and test text, of which no line may be dropped) a longer line,
    or one that some tools would read as two, is an error.
    """
    digest, lines_before = hashlib.sha256(), 0
    with opened(path) as file:
        while lines := file.readlines(BLOCK_BYTES):
            block = b"".join(lines)
            digest.update(block)
            try:
                block.decode("utf-8")
            except UnicodeDecodeError as error:
                number = lines_before + block.count(b"\n", 0, error.start) + 1
                raise TextError(
                    f"{path}, line {number}: not valid UTF-8 (byte 0x{block[error.start]:02x}); "
                    "convert the file, for instance: iconv -f ISO-8859-1 -t UTF-8"
                ) from None
            if max_tokens is not None:
                for number, line in enumerate(lines, lines_before + 1):
                    check_kept_line(path, number, line, max_tokens)
            lines_before += len(lines)
    if lines_before == 0:
        raise TextError(f"{path} is empty; give a file with one sentence a line")
    return digest.hexdigest(), lines_before


def check_kept_line(path: str, number: int, line: bytes, max_tokens: int) -> None:
    if b"\r" in line.rstrip(b"\r\n"):
        raise TextError(
            f"{path}, line {number}: a carriage return inside the line, which some tools read "
            "as two lines; remove it, for instance: tr '\\r' ' '"
        )
    if len(line) > 2 * max_tokens:  # a word and its space are two bytes at least
        refuse_long_line(path, number, len(line.split()), "words", max_tokens)


def refuse_long_line(path: str, number: int, length: int, unit: str, max_tokens: int) -> None:
    if length > max_tokens:
        raise TextError(
            f"{path}, line {number}: {length:,} {unit}, but a model of {max_tokens + 1} positions "
            f"takes {max_tokens:,}; split the line in both languages, or raise --max-positions"
        )


def verify(text_path: str, binarized: str) -> None:
    """Compare what fairseq-preprocess wrote, which can lose a worker's error, with the text.

    Args:
        text_path: the text.
        binarized: its data, without .bin and .idx.

    Raises:
        TextError: they don't have the same lines, or the data are not whole.
    """
    with opened(text_path) as text:
        lines = sum(len(chunk) for chunk in line_chunks(text))
    try:
        with opened(binarized + ".idx") as index:
            magic, _, number_type, sentences = INDEX_HEADER.unpack(index.read(INDEX_HEADER.size))
            if sentences != lines:  # it may be any number: so much is not read
                raise ValueError(sentences)
            sizes = array("i", index.read(4 * sentences))
        tokens_bytes = os.path.getsize(binarized + ".bin")
        whole = magic == b"MMIDIDX\0\0" and sum(sizes) * BYTES_OF_TYPE[number_type] == tokens_bytes
    except (struct.error, ValueError, KeyError, OSError):
        whole = False
    if not whole:
        raise TextError(
            f"{binarized}.bin and .idx don't hold the {lines:,} lines of "
            f"{text_path}; is the disk full? Run again"
        )
