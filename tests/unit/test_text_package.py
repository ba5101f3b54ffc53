"""fairseq_mem_text: imported in the ordinary way, without fairseq and torch."""

import re
import subprocess
import sys
from pathlib import Path

import fairseq_mem_text
import pytest

PACKAGE = Path(fairseq_mem_text.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
ROOT = PACKAGE.parent.parent


def test_it_needs_neither_fairseq_nor_torch():
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module('fairseq_mem_text.{name}')\n" for name in MODULES
    )
    code += "print([name for name in ('torch', 'fairseq', 'fairseq_mem') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_its_docstring_names_every_module():
    named = set(re.findall(r"``(\w+)``", fairseq_mem_text.__doc__))
    assert named == set(MODULES) - {"__init__"}


def test_nothing_is_imported_by_its_path():
    code = [
        path
        for folder in ("fairseq_mem", "serve", "examples", "benchmarks", "scripts", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    by_path = "spec_from_" + "file_location"
    assert [path for path in code if by_path in path.read_text(encoding="utf-8")] == []


def test_the_version_stands_in_one_place():
    import fairseq_mem_serve
    from fairseq_mem_text.version import __version__

    import fairseq_mem

    assert fairseq_mem.__version__ is fairseq_mem_serve.__version__ is __version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fairseq_mem.nothing
