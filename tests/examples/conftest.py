"""The world that prepare.sh of the WMT-14 example sees."""

from pathlib import Path

import pytest
from helpers.wmt14 import ARCHIVES, World


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path, ARCHIVES)
    yield made
    made.close()
