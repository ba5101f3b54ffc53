"""Models that can be exported, exports that are refused, and CTranslate2's translator of one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_mem import UserError
from fairseq_mem.tools import cli

LONGEST = 24  # positions of the text
BOTH = ["--memory-tokens", "3", "--memory-decoder-tokens", "2"]
SHARED = ["--share-all-embeddings"]
PRE_NORM = ["--encoder-normalize-before", "--decoder-normalize-before"]
LEARNED = ["--encoder-learned-pos", "--decoder-learned-pos"]


def edit(checkpoint: Path, name: str, value: Any) -> None:
    """Change one of the options of a checkpoint's model."""
    state = torch.load(checkpoint)
    setattr(state["cfg"]["model"], name, value)
    torch.save(state, checkpoint)


def refusal(folder: Path, tmp_path: Path, *arguments: object) -> str:
    """What the command says, in one line; it has left nothing behind."""
    out = tmp_path / "nothing" / "out"
    words = ["export", folder / "model.pt", folder, "--out", out, *arguments]
    with pytest.raises(UserError) as stop:
        cli.main(list(map(str, words)))
    assert not out.parent.exists()
    assert "\n" not in str(stop.value)
    return str(stop.value)


def load(folder: Path, about: dict[str, Any]) -> Any:
    """CTranslate2's own translator, in the precision that the folder asks for."""
    import ctranslate2

    return ctranslate2.Translator(str(folder), compute_type=about["compute_type"], intra_threads=1)
