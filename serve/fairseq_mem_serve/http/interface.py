"""What a request may say: LibreTranslate's fields and a few of ours, read with care."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import jsonschema

from .models import shown
from .settings import MOST_BEAM, Refused

JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"
BEAM = 4
NBEST = {"minimum": 1, "maximum": MOST_BEAM}
_LANGUAGE = {"type": "string", "minLength": 1, "maxLength": 64}

# Of a request's body, as JSON Schema; also what openapi.json shows.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["q", "source", "target"],
    "additionalProperties": False,
    "properties": {
        "q": {
            "description": "The text, or several texts; each may have many sentences and lines.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
        "source": {
            **_LANGUAGE,
            "description": "Its language; `auto` where only one can be meant.",
        },
        "target": {**_LANGUAGE, "description": "The language to translate to."},
        "format": {"const": "text", "description": "Plain text; no other is known."},
        "alternatives": {
            "type": "integer", "minimum": 0, "maximum": MOST_BEAM - 1,
            "description": "Further translations of each text; `nbest` - 1.",
        },
        "api_key": {"type": "string", "description": "If the server wants one."},
        "beam": {
            "type": "integer", **NBEST,
            "description": "Hypotheses that the search follows (default 4, or `nbest`).",
        },
        "nbest": {
            "type": "integer", **NBEST,
            "description": "Translations of each sentence, at most `beam` (default 1).",
        },
        "scores": {
            "type": "boolean",
            "description": "Tell sentences and the log-probability a token of each translation.",
        },
        "split_sentences": {
            "type": "boolean",
            "description": "Find sentences; if false, every line is one.",
        },
    },
}  # fmt: skip
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
_EXPECTED = {"string": "a string", "integer": "a whole number", "boolean": "true or false"}


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        texts: one or several; ``is_list`` tells how they were given, and so the answer's form.
    """

    texts: list[str]
    is_list: bool
    source: str
    target: str
    beam: int
    nbest: int
    scores: bool
    split: bool | None
    api_key: str | None


def read_request(body: bytes, content_type: str, max_texts: int) -> Request:
    """Read a body.

    Raises:
        Refused: with status 400; 415 for another type of content; 422 for too many texts.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in (JSON_TYPE, ""):
        fields = _read_json(body)
    elif kind == FORM_TYPE:
        fields = _read_form(body)
    else:
        raise Refused(
            415, f"Content-Type: {shown(kind)} is not understood; send {JSON_TYPE} or {FORM_TYPE}"
        )
    texts = fields.get("q") if isinstance(fields, dict) else None
    if isinstance(texts, list) and len(texts) > max_texts:  # before each of them is looked at
        raise Refused(422, f"q: {len(texts):,} texts, at most {max_texts:,} a request; send fewer")
    _check(fields)
    nbest = fields.get("nbest", fields.get("alternatives", 0) + 1)
    if nbest != fields.get("alternatives", nbest - 1) + 1:
        raise Refused(400, "nbest, alternatives: nbest is alternatives + 1; give one of them")
    beam = fields.get("beam", max(BEAM, nbest))
    if nbest > beam:
        raise Refused(400, f"nbest: {nbest} translations need a beam of as many, not {beam}")
    is_list = isinstance(fields["q"], list)
    return Request(
        texts=list(fields["q"]) if is_list else [fields["q"]],
        is_list=is_list,
        source=fields["source"],
        target=fields["target"],
        beam=beam,
        nbest=nbest,
        scores=fields.get("scores", False),
        split=fields.get("split_sentences"),
        api_key=fields.get("api_key"),
    )


def _read_json(body: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    if not body.strip():
        raise Refused(400, 'the body is empty; send JSON such as {"q": "...", ...}')
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8 (at byte {error.start})") from None
    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        what = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError as error:  # a constant, or a number of thousands of digits
        what = str(error).partition(";")[0]
    except RecursionError:
        what = "nested too deeply"
    raise Refused(400, f"the body is no JSON: {what}")


def _read_form(body: bytes) -> dict[str, Any]:
    """A form's fields; of several ``q`` a list, numbers and truth values out of their spelling."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body),
            errors="strict",
        )  # fmt: skip
    except ValueError:  # of Unicode too
        raise Refused(
            400, f"the body is no form of UTF-8; if it is JSON, send Content-Type: {JSON_TYPE}"
        ) from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name == "q" and name in fields:
            before = fields[name]
            if isinstance(before, list):
                before.append(value)
            else:
                fields[name] = [before, value]
            continue
        kind = SCHEMA["properties"].get(name, {}).get("type")
        if kind == "integer" and value.isascii() and value.isdigit() and len(value) < 10:
            fields[name] = int(value)
        elif kind == "boolean" and value in ("true", "false"):
            fields[name] = value == "true"
        else:
            fields[name] = value
    return fields


def _check(fields: Any) -> None:
    """Refuse what is not of the schema, and what is no Unicode."""
    if not isinstance(fields, dict):
        raise Refused(400, f"the body is JSON, but no object; {_usage()}")
    error = next(iter(sorted(_VALIDATOR.iter_errors(fields), key=_order)), None)
    if error is not None:
        raise Refused(400, _explained(error, fields))
    texts = fields["q"] if isinstance(fields["q"], list) else [fields["q"]]
    named = [(f"q[{i}]" if texts is fields["q"] else "q", text) for i, text in enumerate(texts)]
    named += [(name, fields[name]) for name in ("source", "target", "api_key") if name in fields]
    for name, text in named:
        place = surrogate(text)
        if place is not None:
            raise Refused(
                400,
                f"{name}: a lone surrogate (U+{ord(text[place]):04X}) at character {place + 1}, "
                "which is no Unicode; send whole characters",
            )


def _order(error: Any) -> tuple[bool, str]:
    return error.validator != "additionalProperties", str(error.json_path)


def _usage() -> str:
    return 'send {"q": "...", "source": "...", "target": "..."}'


def _explained(error: Any, fields: dict[str, Any]) -> str:
    """What is wrong and what to do, without the text that was sent."""
    if error.validator == "additionalProperties":
        unknown = sorted(set(fields) - set(SCHEMA["properties"]))[0]
        return (
            f"{well_formed(shown(unknown))} is no field; there are "
            f"{', '.join(SCHEMA['properties'])}"
        )
    if error.validator == "required":
        missing = [name for name in SCHEMA["required"] if name not in fields]
        return f"{', '.join(missing)}: missing; {_usage()}"
    name = error.absolute_path[0]
    value = fields[name]
    if name == "q":
        if isinstance(value, list):
            at = next(i for i, text in enumerate(value) if not isinstance(text, str))
            return f"q[{at}]: {_typed(value[at])}; give strings"
        return f"q: {_typed(value)}; give a string, or a list of strings"
    if name == "format":
        what = shown(well_formed(value)) if isinstance(value, str) else _typed(value)
        return f"format: {what}; only 'text' is known"
    schema = SCHEMA["properties"][name]
    if error.validator == "type":
        return f"{name}: {_typed(value)}; give {_EXPECTED[schema['type']]}"
    if schema["type"] == "integer":
        return f"{name}: out of range; give {schema['minimum']} to {schema['maximum']}"
    return f"{name}: {len(value)} characters; give the code of a language, such as de"


def _typed(value: Any) -> str:
    """Of which JSON type a value is."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")


def surrogate(text: str) -> int | None:
    """Where a text has a lone surrogate; None if nowhere."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def well_formed(text: str) -> str:
    """For a message: every lone surrogate as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
