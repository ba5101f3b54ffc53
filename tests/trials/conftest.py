"""What trials share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """All files that are read, made once."""
    from helpers import spoilable  # needs what only few trials need

    return spoilable.make(tmp_path_factory.mktemp("sound") / "place")


@pytest.fixture
def place(sound, tmp_path, monkeypatch) -> Path:
    """A copy to spoil, which is the working folder."""
    copied = Path(shutil.copytree(sound, tmp_path / "place"))
    monkeypatch.chdir(copied)
    return copied
