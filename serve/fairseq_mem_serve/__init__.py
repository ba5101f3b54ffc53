"""Translate raw text with a model that `fairseq-mem export` wrote, without fairseq or torch."""

from fairseq_mem_text.pipeline import TextPipeline, TooLong
from fairseq_mem_text.version import __version__

from .loading import load_translator
from .protocol import Batch, Engine, Found, Hypothesis, TokenScore
from .translator import NotText, Translator

__all__ = [
    "Batch",
    "Engine",
    "Found",
    "Hypothesis",
    "NotText",
    "TextPipeline",
    "TokenScore",
    "TooLong",
    "Translator",
    "__version__",
    "load_translator",
]
