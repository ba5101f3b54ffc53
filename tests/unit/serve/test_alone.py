"""fairseq-mem-serve needs neither fairseq nor torch."""

import shutil
import subprocess
import sys

import pytest
from helpers.commands import ROOT

SERVE = ROOT / "serve"


# ---------------------------------------------------------------- alone

USE = """
import sys, ctranslate2
theirs = set(sys.modules)  # CTranslate2 4.5 imports torch where it is there
from fairseq_mem_serve import load_translator
print(load_translator(sys.argv[1], threads=1).translate(["eins zwei drei.", ""]))
unwanted = {"torch", "fairseq", "fairseq_mem"} & (set(sys.modules) - theirs)
assert not unwanted, unwanted
"""


def test_neither_fairseq_nor_torch_is_imported(translator_files, served):
    done = subprocess.run(
        [sys.executable, "-c", USE, translator_files.exported],
        capture_output=True, text=True, env={"PYTHONPATH": str(SERVE), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{served.translate(['eins zwei drei.', ''])}\n"


@pytest.mark.cli
def test_installs_into_an_empty_environment(translator_files, tmp_path, served):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    copy = shutil.copytree(SERVE, tmp_path / "serve")  # a build leaves files behind
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", copy], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout.lower()
    assert "fairseq-mem-serve" in listed and "ctranslate2" in listed
    assert not {"torch", "fairseq-fixed", "fairseq"} & {
        line.split()[0] for line in listed.splitlines()
    }
    done = subprocess.run(
        [python, "-c", USE, translator_files.exported],
        capture_output=True, text=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{served.translate(['eins zwei drei.', ''])}\n"
