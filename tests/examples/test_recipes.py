"""What all commands for training have in common: examples, benchmarks, README.md and docs/."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers.commands import ROOT

RECIPES = [
    path for path in sorted(ROOT.glob("examples/*/*.sh")) if "--max-update" in path.read_text()
]
PAGES = [ROOT / "README.md", *(ROOT / "docs/how-to").glob("*.md")]


def trainings(path: Path) -> list[list[str]]:
    """The words of every command that trains: arrays of a shell script, blocks of Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = re.findall(r"^fairseq-train (?:.*\\\n)+.*$", text, re.MULTILINE)
        blocks = [block for block in blocks if "--save-dir" in block]
    else:
        blocks = re.findall(r"=\($(.*?)^ *\)$", text, re.MULTILINE | re.DOTALL)
        blocks = [block for block in blocks if "--max-update" in block]
    return [shlex.split(block, comments=True) for block in blocks]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_a_gpu_is_hidden_from_training_on_the_cpu(path):
    """Else fairseq's `--cpu` fails in `--clip-norm`, on every machine that has one."""
    text = path.read_text(encoding="utf-8")
    assert "--cpu" in text
    assert "use_cpu" in text or "export CUDA_VISIBLE_DEVICES= " in text


def test_use_cpu_hides_the_gpus():
    command = '. scripts/recipe.sh && use_cpu && python -c "import os; print(os.environ)"'
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0"}
    ran = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert "'CUDA_VISIBLE_DEVICES': ''" in ran.stdout, ran.stderr


@pytest.mark.parametrize("name", ["recall", "reversal"])
def test_folders_are_named_from_where_the_user_is(name, tmp_path):
    """The scripts work in the checkout's folder; a relative WORK and VENV are none of it."""
    (tmp_path / "my venv/bin").mkdir(parents=True)
    for program in ("python", "fairseq-train"):
        stub = tmp_path / "my venv/bin" / program
        stub.write_text('#!/bin/sh\necho "$@" >&2\nexit 1\n')
        stub.chmod(0o755)
    environment = os.environ | {"WORK": "my work", "VENV": "my venv"}
    ran = subprocess.run(
        [ROOT / f"examples/{name}/run.sh"], cwd=tmp_path, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.strip().endswith(f"{tmp_path}/my work/text")
    assert (tmp_path / "my work").is_dir() and not (ROOT / "my work").exists()


def test_these_are_the_recipes():
    names = {path.parent.name for path in RECIPES}
    assert names == {"glue", "quickstart", "recall", "reversal", "wikitext103", "wmt14_de_en"}
    assert {path.name: len(trainings(path)) for path in PAGES if trainings(path)} == {
        "README.md": 1, "documents.md": 2, "language-models.md": 2, "own-data.md": 1,
        "sentence-encoders.md": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [*RECIPES, *filter(trainings, PAGES)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_resumed_training_is_the_uninterrupted_one(path):
    """The flag without which it isn't, see this name in commands/test_fairseq_translation.py."""
    assert trainings(path)
    for words in trainings(path):
        assert words[words.index("--update-epoch-batch-itr") + 1] == "True"


def test_the_benchmarks_train_as_the_recipes_do():
    text = (ROOT / "benchmarks/generation.py").read_text(encoding="utf-8")
    assert text.count('"fairseq_cli.train"') == 1 and "--update-epoch-batch-itr True" in text
