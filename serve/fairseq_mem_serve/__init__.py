"""Translate raw text with a model that `fairseq-mem export` wrote, without fairseq or torch."""

from .engine import load_translator
from .text import TextPipeline, TooLong
from .translator import Batch, Engine, Found, Hypothesis, NotText, Translator
from .version import __version__

__all__ = [
    "Batch",
    "Engine",
    "Found",
    "Hypothesis",
    "NotText",
    "TextPipeline",
    "TooLong",
    "Translator",
    "__version__",
    "load_translator",
]
