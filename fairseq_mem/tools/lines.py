"""Sentences out of a text file, counted as preprocess.sh, translate and sacreBLEU count them."""

from pathlib import Path


def read_lines(path: Path) -> list[str]:
    r"""The lines of a UTF-8 text.

    Only ``\n`` ends a line: a carriage return, U+2028 and others that Python takes for a line's
    end may stand inside a sentence. No text are a byte order mark at the start of the file and a
    carriage return at the end of a line.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; says in which line.
    """
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {number} of {path.name}: not valid UTF-8 (byte 0x{line[error.start]:02x}); "
                "convert the file, for instance: iconv -f ISO-8859-1 -t UTF-8"
            ) from None
    return texts
