"""What `fairseq-mem export` writes, read with care: a folder may come from anywhere, and damaged.

Only regular files are read, none of them beyond a size that no sound one has, and what they say is
checked before CTranslate2, sacremoses or subword-nmt see it. CTranslate2 checks little of what it
loads; so an export tells the SHA-256 of each of its files, and they are compared.
"""

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import jsonschema
from fairseq_mem_text.files import sha256

FORMAT = 1
DESCRIPTION = "fairseq_mem.json"
MOST_BYTES = {DESCRIPTION: 1 << 24, "config.json": 1 << 20, "code": 1 << 28, "target_code": 1 << 28}
MOST_OTHER_BYTES = 1 << 30  # of vocabularies
MOST_SHOWN = 60  # characters of a value in a message
REMEDY = "export the model again"
BINARY_VERSION = 6  # of CTranslate2's files, which we can read
EMBEDDINGS = {"source": "encoder/embeddings_0/weight", "target": "decoder/embeddings/weight"}
NOT_OURS = ("vmap.txt",)  # what the words of a source may become: CTranslate2 dies of an empty one

_WORD = {"type": "string"}
_WORDS = {"type": "array", "items": _WORD}
_LANGUAGE = {"type": "string", "minLength": 1, "maxLength": 64}
_TOKENS = {"type": "integer", "minimum": 2, "maximum": 10**6}  # a word and the end mark

# Of fairseq_mem.json, as JSON Schema. Keys that are not named here are accepted and ignored: a
# later release may add what an earlier one can do without, and else raises the format's number.
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "format": {"const": FORMAT},
        "source_language": _LANGUAGE,
        "target_language": _LANGUAGE,
        "source_prefix": _WORDS,
        "target_prefix": _WORDS,
        "decoder_start_token": _WORD,
        "text_end": {"type": ["string", "null"]},
        "eos": {"const": "</s>"},
        "tokenizer": {"enum": ["moses", None]},
        "normalize": {"type": "boolean"},
        "nfc": {"type": "boolean"},
        "remove_nonprinting": {"type": "boolean"},
        "bpe": {"enum": ["subword_nmt", None]},
        "target_code": {"enum": ["code", "target_code", None]},
        "max_source_tokens": _TOKENS,
        "max_target_tokens": _TOKENS,
        "compute_type": _WORD,
        "sha256": {
            "type": "object",
            "propertyNames": {"pattern": r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"},
            "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
    },
    "required": [
        "source_language", "target_language", "source_prefix", "target_prefix", "tokenizer", "bpe",
        "max_source_tokens", "max_target_tokens",
    ],
}  # fmt: skip
# CTranslate2's config.json, as far as the search relies on it.
CONFIG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "add_source_bos": {"const": False},
        "add_source_eos": {"const": True},
        "bos_token": _WORD,
        "eos_token": {"const": "</s>"},
        "unk_token": {"const": "<unk>"},
        "decoder_start_token": _WORD,
        "layer_norm_epsilon": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    },
    "required": ["add_source_bos", "add_source_eos", "bos_token", "eos_token", "unk_token"],
}


def read_description(folder: Path) -> dict[str, Any]:
    """Return what the exporter says about the model in ``folder``.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: it is of a format that we don't know, or damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no exported model ({DESCRIPTION} is missing); "
            "make one with: fairseq-mem export"
        )
    description = read_json(path)
    if isinstance(description, dict) and description.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{folder} has format {shown(description['format'])}, this fairseq-mem-serve reads "
            f"format {FORMAT}; install the release that fits, or {REMEDY}"
        )
    check(path, description, SCHEMA)
    return dict(description)


def check_files(folder: Path, description: dict[str, Any]) -> None:
    """Refuse a folder in which something is missing, no regular file, or not what was exported.

    Raises:
        ValueError: naming it.
    """
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"cannot read {folder}: {error.strerror}") from None
    for path in there:  # CTranslate2 opens some that we don't
        if path.name in NOT_OURS:
            raise ValueError(f"{path} is of no export, and CTranslate2 would read it; remove it")
        if path.suffix in (".bin", ".json", ".txt") and not path.name.startswith("."):
            check_size(path)
    needed = ["model.bin", "config.json", *(["code"] if description["bpe"] else [])]
    needed += [description["target_code"]] if description.get("target_code") else []
    for name in needed:
        check_size(folder / name)
    config = read_json(folder / "config.json")
    check(folder / "config.json", config, CONFIG_SCHEMA)
    start = description.get("decoder_start_token", "</s>")
    if config.get("decoder_start_token", config["bos_token"]) != start:
        raise ValueError(
            f"{folder / 'config.json'} and {DESCRIPTION} have different decoder_start_tokens; "
            f"{REMEDY}"
        )
    for name, digest in description.get("sha256", {}).items():
        check_size(folder / name)
        if sha256(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is damaged: its SHA-256 is not the one in {DESCRIPTION}; {REMEDY}"
            )


def embedded_words(folder: Path) -> dict[str, int]:
    """Return how many words the model embeds on each side, as far as its file says it.

    CTranslate2 does not compare them with the vocabulary, and reads beyond the table's end.
    """
    rows: dict[str, int] = {}
    with contextlib.suppress(struct.error, IndexError), open(folder / "model.bin", "rb") as file:

        def number(kind: str) -> int:
            (value,) = struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))
            return int(value)

        def name() -> bytes:
            return file.read(number("H"))[:-1]

        if number("I") != BINARY_VERSION:
            return {}
        name(), number("I")  # of the kind of model, and its revision
        for _ in range(number("I")):
            variable = name().decode("utf-8", "replace")
            shape = [number("I") for _ in range(number("B"))]
            number("B")  # the type
            file.seek(number("I"), os.SEEK_CUR)
            rows[variable] = shape[0] if shape else 0
        for _ in range(number("I")):
            alias, variable = (name().decode("utf-8", "replace") for _ in range(2))
            rows[alias] = rows.get(variable, 0)
    return {side: rows[variable] for side, variable in EMBEDDINGS.items() if variable in rows}


def read_vocabulary(folder: Path, side: str, count: int | None = None) -> set[str]:
    """Return the tokens of one side of the model in ``folder``, which embeds ``count`` words.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    for name in ("shared_vocabulary.json", f"{side}_vocabulary.json"):  # CTranslate2's order
        if (folder / name).is_file():
            words = read_json(folder / name)
            # a schema would take seconds
            if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise ValueError(f"{folder / name} is damaged: no list of words; {REMEDY}")
            if count not in (None, len(words)):
                raise ValueError(
                    f"{folder / name} is damaged: {len(words):,} words, and the model has "
                    f"{count:,}; {REMEDY}"
                )
            missing = [word for word in ("</s>", "<unk>") if word not in words]
            if missing:
                raise ValueError(f"{folder / name} is damaged: {missing[0]} is missing; {REMEDY}")
            return set(words)
    raise ValueError(f"{folder} lacks its {side} vocabulary; {REMEDY}")


def read_json(path: Path) -> Any:
    """Return what a small file of JSON says.

    Raises:
        ValueError: it is none, or cannot be read.
    """
    check_size(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: no JSON; {REMEDY}") from None


def check_size(path: Path) -> None:
    """Refuse what is no regular file, or larger than any sound one.

    Raises:
        ValueError: saying so.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no regular file; {REMEDY}")
    most = MOST_BYTES.get(path.name, MOST_OTHER_BYTES)
    if path.name != "model.bin" and path.stat().st_size > most:
        raise ValueError(f"{path} has more than {most:,} bytes, so it is damaged; {REMEDY}")


def check(path: Path, value: Any, schema: dict[str, Any]) -> None:
    """Refuse a file whose JSON is not of ``schema``.

    Raises:
        ValueError: with the place and the value that are wrong.
    """
    try:
        error = jsonschema.exceptions.best_match(
            jsonschema.Draft202012Validator(schema).iter_errors(value)
        )
        if error is None:
            return
        if error.validator == "required":
            missing = [key for key in error.validator_value if key not in error.instance]
            what = f"lacks {', '.join(missing)}"
        else:
            what = f"is damaged: {error.json_path} is {shown(error.instance)}"
    except RecursionError:
        what = "is damaged: too deeply nested"
    raise ValueError(f"{path} {what}; {REMEDY}")


def shown(value: Any) -> str:
    """A value for a message, in one line and not all of it if it is long."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
