"""A translator as it is served, and its model in fairseq."""

import argparse

import pytest
from fairseq_mem_serve import (
    load_translator,
)

from fairseq_mem.tools.translate.command import load_checkpoint


@pytest.fixture(scope="module")
def served(translator_files):
    return load_translator(translator_files.exported, threads=1)


@pytest.fixture(scope="module")
def by_fairseq(translator_files):
    """The same model and the same pipeline, with fairseq's generator."""
    args = argparse.Namespace(
        model=str(translator_files.checkpoint), data=str(translator_files.data), device="cpu",
        source_lang=None, target_lang=None, threads=None, tokenizer=None, bpe_codes=None,
    )  # fmt: skip
    return load_checkpoint(args)
