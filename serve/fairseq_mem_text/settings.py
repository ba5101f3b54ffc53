"""How the text of a folder of binarised data was prepared, by what `preprocess.sh` left in it.

That is ``settings.txt``, a name and its value a line, and the BPE merges in ``code``.
"""

from pathlib import Path
from typing import NamedTuple

from .errors import TextError


class TextSettings(NamedTuple):
    """What raw text needs before a model that learned from the data can read it."""

    tokenizer: str | None  # "moses"
    normalize: bool  # Moses' punctuation normalisation comes before
    remove_nonprinting: bool  # and takes out control characters
    nfc: bool  # and composes characters first
    codes: Path | None  # BPE merges


def read_settings(data: Path) -> dict[str, str]:
    """The names and values in a folder's ``settings.txt``; none if there is no such file.

    Raises:
        TextError: it cannot be read.
    """
    path = data / "settings.txt"
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise TextError(f"{path} is damaged (no UTF-8); run preprocess.sh again") from None
    return dict(line.split(" ", 1) for line in lines if " " in line and line[0] != "#")


def settings_of(
    data: Path, language: str, tokenizer: str | None = None, codes: Path | None = None
) -> TextSettings:
    """How text of ``language`` was prepared: as asked for, or else as the data's settings say.

    Text of another origin than preprocess.sh was binarised as it was, but for BPE.

    Args:
        data: folder of the binarised data.
        tokenizer: "moses", "none", or None for what the settings say.
        codes: file of BPE merges, or None for the data's.

    Raises:
        TextError: the settings cannot be read.
    """
    settings = read_settings(data)
    moses = (tokenizer or ("moses" if settings else "none")) == "moses"
    # With `preprocess.sh --separate` the target has merges of its own, which a model of the
    # opposite direction begins with.
    places = [codes] if codes else [data / f"code.{language}", data / "code"]
    normalize = moses and settings.get("normalize") == "yes"
    return TextSettings(
        "moses" if moses else None,
        normalize,
        normalize and settings.get("nonprinting") == "remove",
        normalize and settings.get("nfc") == "yes",
        next((path for path in places if path.is_file()), None),
    )
