"""The description of the interface, for people, generators of clients and testers."""

from collections.abc import Sequence
from typing import Any

from fairseq_mem_text.version import __version__

from .interface import FORM_TYPE, JSON_TYPE, SCHEMA
from .settings import Settings

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "additionalProperties": False,
}
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}


def _one_or_many(schema: dict[str, Any]) -> dict[str, Any]:
    """Of one text, or of several in a list."""
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


ANSWER = {
    "type": "object",
    "required": ["translatedText"],
    "additionalProperties": False,
    "properties": {
        "translatedText": _one_or_many(_TEXT),
        "alternatives": {
            **_one_or_many(_TEXTS),
            "description": "Of each text the next best translations, where they were asked for: "
            "the k-th has the k-th best translation of every sentence.",
        },
        "detectedLanguage": {
            **_one_or_many(
                {
                    "type": "object",
                    "required": ["language", "confidence"],
                    "properties": {"language": _TEXT, "confidence": {"type": "number"}},
                }
            ),
            "description": "For the source `auto`: the only language there is, confidence 0.",
        },
        "sentences": {
            **_one_or_many(
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["source", "translations"],
                        "properties": {
                            "source": _TEXT,
                            "translations": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "object",
                                    "required": ["text", "score"],
                                    "properties": {"text": _TEXT, "score": {"type": "number"}},
                                },
                            },
                        },
                    },
                }
            ),
            "description": "With `scores`: each sentence's translations, best first; a score is "
            "the log-probability (natural logarithm) divided by the number of tokens.",
        },
    },
}
LANGUAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["code", "name", "targets"],
        "properties": {"code": _TEXT, "name": _TEXT, "targets": _TEXTS},
    },
}
HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["ok", "stopping", "failed"]}},
}


def _answers(text: str, schema: dict[str, Any] | None, kind: str = JSON_TYPE) -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": schema or _TEXT}}}


def _get(summary: str, schema: dict[str, Any] | None, kind: str, **others: Any) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": _answers("", schema, kind), **others}}}


def description(settings: Settings, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The server's OpenAPI document.

    Args:
        settings: the limits, which it tells.
        pairs: the languages that it names as sources and targets.
    """
    sources = sorted({source for source, _ in pairs})
    targets = sorted({target for _, target in pairs})
    fields = dict(SCHEMA["properties"])
    fields["source"] = {**fields["source"], "enum": [*sources, "auto"]}
    fields["target"] = {**fields["target"], "enum": targets}
    request = {**SCHEMA, "properties": fields}
    error = {"$ref": "#/components/schemas/Error"}
    body = {"schema": {"$ref": "#/components/schemas/Request"}}
    errors = {
        "400": "Not understood: no JSON, a wrong type, an unknown field or pair of languages.",
        "401": "No API key, and one is needed.",
        "403": "An API key that is none of the server's.",
        "408": "The body did not come in time.",
        "413": f"A body of more than {settings.max_body_bytes:,} bytes.",
        "415": "Neither JSON nor a form.",
        "422": f"More than {settings.max_sentences:,} sentences, or one that is too long.",
        "429": f"More than {settings.max_requests:,} requests under way.",
        "500": "A mistake of the server's, or no memory.",
        "503": "The server is being stopped.",
        "504": f"Not done in {settings.request_seconds:g} seconds.",
    }
    translate = {
        "summary": "Translate",
        "requestBody": {"required": True, "content": {JSON_TYPE: body, FORM_TYPE: body}},
        "responses": {
            "200": _answers("The translations.", {"$ref": "#/components/schemas/Answer"}),
            **{status: _answers(text, error) for status, text in errors.items()},
        },
        # A key goes into the body as `api_key`, or into a header.
        "security": [{}, {"key": []}],
    }
    plain = "text/plain"
    unready = {"503": _answers("Not ready.", HEALTH)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fairseq-mem-serve",
            "version": __version__,
            "description": "LibreTranslate's interface to models that fairseq-mem exported.",
        },
        "servers": [{"url": "."}],
        "paths": {
            "/translate": {"post": translate},
            "/languages": _get("Which languages become which", LANGUAGES, JSON_TYPE),
            "/health": _get("Whether it is ready to translate", HEALTH, JSON_TYPE, **unready),
            "/health/live": _get("Whether the process answers", HEALTH, JSON_TYPE),
            "/health/ready": _get("As /health", HEALTH, JSON_TYPE, **unready),
            "/metrics": _get("Numbers for Prometheus", None, plain),
        },
        "components": {
            "schemas": {"Request": request, "Answer": ANSWER, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
