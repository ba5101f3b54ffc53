"""Commands that are killed at any moment: what has its name is whole, and run again they end well.

Where there was something before under the name, it is that or the new, and never some of both.
"""

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import kills
from helpers.exports import BOTH, SHARED
from helpers.trained_models import texts, train
from safetensors.torch import save_file

from fairseq_mem.tools import bert_folder, cli

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh")]
LINES = 60
WIDTH, INNER = 16, 24


def write_bert(folder: Path, seed: int) -> None:
    """A random BERT of one layer, as Hugging Face saves it."""
    numbers = torch.Generator().manual_seed(seed)
    folder.mkdir()
    config = dict(model_type="bert", vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=1,
                  num_attention_heads=2, intermediate_size=INNER, max_position_embeddings=20,
                  type_vocab_size=2)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    words = [*WORDS, *(f"word{seed}{n}" for n in range(seed))]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    shapes = {f"embeddings.{n}_embeddings.weight": (rows, WIDTH) for n, rows in
              (("word", len(words)), ("position", 20), ("token_type", 2))}  # fmt: skip
    for name in ("embeddings.LayerNorm", *(f"encoder.layer.0.{n}" for n in bert_folder.LAYER)):
        rows = INNER if "intermediate" in name else WIDTH
        columns = INNER if name.endswith("0.output.dense") else WIDTH
        shapes[f"{name}.weight"] = (rows,) if "LayerNorm" in name else (rows, columns)
        shapes[f"{name}.bias"] = (rows,)
    made = {name: torch.randn(*shape, generator=numbers) for name, shape in shapes.items()}
    save_file(made, folder / "model.safetensors")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Of each thing two, 1 and 2: models with their dictionaries, BERTs, texts."""
    folder = tmp_path_factory.mktemp("commands")
    for number in (1, 2):
        train(folder / f"{number}", [*BOTH, *SHARED, "--lr", f"0.0{number}"], updates=number)
        write_bert(folder / f"bert{number}", number)
        lines = (" ".join(source) for source, _ in texts(LINES, number))
        (folder / f"text{number}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def words(world: Path, command: str, number: int, out: Path) -> list[str]:
    """The command line that makes ``out`` of the things of a number."""
    model, other = world / f"{number}/model.pt", world / f"{3 - number}/model.pt"
    line: list[object] = {
        "average": ["average", model, other, "--out", out],
        "export": ["export", model, model.parent, "--force", "--out", out],
        "import-bert": ["import-bert", world / f"bert{number}", "--out", out],
        "translate": ["translate", model, "--data", model.parent, "--input",
                      world / f"text{number}", "--output", out, "--threads", 1],
    }[command]  # fmt: skip
    return list(map(str, line))


def content(out: Path) -> dict[str, bytes]:
    """What has its name: of a file or of a folder; nothing if nothing is there."""
    files = [out] if out.is_file() else sorted(out.glob("*"))
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory) -> Callable[[str, int], tuple[dict, kills.Ended]]:
    @functools.cache
    def made(command: str, number: int) -> tuple[dict, kills.Ended]:
        folder = tmp_path_factory.mktemp("whole")
        line = words(world, command, number, folder / "out")
        ended = kills.run(lambda: cli.main(line), folder)
        assert ended.status == 0 and content(folder / "out"), ended.said
        return content(folder / "out"), ended

    return made


@pytest.mark.tries(sample=1, soak=20)
@pytest.mark.parametrize("command", ["average", "export", "import-bert", "translate"])
def test_commands(seed, command, world, uninterrupted, tmp_path, record_property):
    chance = random.Random(f"{command} {seed}")
    out, line = tmp_path / "out", words(world, command, 1, tmp_path / "out")
    (expected, lasted), before = uninterrupted(command, 1), {}
    if chance.random() < 0.5:
        before, _ = uninterrupted(command, 2)
        kills.run(lambda: cli.main(words(world, command, 2, out)), tmp_path)
        assert content(out) == before != expected
    killed = 0
    for _ in range(3):
        ended = kills.run(lambda: cli.main(line), tmp_path, kills.some_moment(chance, lasted))
        assert ended.killed or ended.status == 0, ended.said
        killed += ended.killed
        found = content(out)
        if "flags.txt" in expected and found.keys() < expected.keys():
            assert "model.pt" not in found  # of an import, the model goes first and comes last
        elif found or command != "export":  # an earlier folder goes before another has its name
            assert found in (before, expected), found.keys()
    record_property(command, killed)
    ended = kills.run(lambda: cli.main(line), tmp_path)
    assert ended.status == 0, ended.said
    assert content(out) == expected
    shutil.rmtree(tmp_path)
