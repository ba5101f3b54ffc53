"""A folder with one of each file that commands read, and the commands that read them."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq_cli.eval_lm
import fairseq_cli.generate
import fairseq_cli.interactive
import fairseq_cli.train
import fairseq_cli.validate
import fairseq_mem_serve  # noqa: F401  (what a command would import is imported once for all)
import pytest
import sacrebleu  # noqa: F401
import torch

from fairseq_mem import MemTransformerModel
from fairseq_mem.runs import charts
from fairseq_mem.tools import cli, conversion  # noqa: F401
from fairseq_mem.tools.insight import reader, sentence, tables  # noqa: F401
from helpers import commands, trained_models
from helpers.apart import Done

SENTENCES = 6
MODEL = ["--share-all-embeddings", "--memory-tokens", "2", "--memory-decoder-tokens", "1"]
DOCUMENTS = [
    "--share-all-embeddings", "--memory-tokens", "2", "--task", "document_translation",
    "--memory-recurrence", "2",
]  # fmt: skip


def make(place: Path) -> Path:
    """Write everything into a new folder; returns it."""
    charts.new_figure(1, 1)
    data = place / "data"
    trained_models.train(data, DOCUMENTS, save="../documents.pt")
    trained_models.train(data, MODEL, 60, save="../model.pt")
    pairs = trained_models.texts(SENTENCES, 1)
    trained_models.write_test_set(data, pairs)
    (data / "dict.txt").write_bytes((data / "dict.de.txt").read_bytes())
    whole = "".join(f"{s} {n}</w>\n" for s in "st" for n in range(10))
    rest = "".join(f"{s} 1\n{s}1 {n}</w>\n" for s in "st" for n in range(2))
    (data / "code").write_text(f"#version: 0.2\n{whole}{rest}")
    (data / "settings.txt").write_text("source de\ntarget en\nnormalize yes\nnonprinting remove\n")
    (data / "test.documents").write_text("a\na\na\nb\nb\nc\n")
    state = torch.load(place / "model.pt")
    torch.save(state, place / "legacy.pt", _use_new_zipfile_serialization=False)
    for name, side in (("input", 0), ("target", 1)):
        lines = "".join(" ".join(pair[side]) + "\n" for pair in pairs)
        (place / name).write_text(lines)
    items = [
        {"source": " ".join(source), "candidates": [" ".join(target), "t1"], "category": "x"}
        for source, target in pairs
    ]
    (place / "contrastive").write_text("".join(json.dumps(item) + "\n" for item in items))
    words = ["export", place / "model.pt", data, "--out", place / "exported"]
    assert cli.main(list(map(str, words))) == 0
    return place


def fairseqs(module: Any, *words: str) -> Callable[[], object]:
    """One of fairseq's commands, in this process."""

    def call() -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["fairseq", *words, "--cpu"])
            patch.setattr(sys, "stdin", io.StringIO("s1 s2\n"))
            return module.cli_main()

    return call


def ours(*words: str) -> Callable[[], object]:
    """One of our commands, in this process."""
    return lambda: cli.main(words)


def from_pretrained() -> None:
    """fairseq's hub interface."""
    MemTransformerModel.from_pretrained(".", "model.pt", "data")


PATH = ("--path", "model.pt", "--max-tokens", "500", *commands.EVERY_SENTENCE)
SHORT = ("--beam", "2", "--max-len-a", "0", "--max-len-b", "5")
PAIR = ("-s", "de", "-t", "en")
# Every command has its checkpoint as model.pt, and writes `out`, `out.json` or standard output.
OURS: dict[str, Callable[[], object]] = {
    "translate": ours("translate", "model.pt", "--data", "data", "--input", "input",
                      "--max-len-b", "5"),
    "score": ours("score", "model.pt", "--data", "data", "--source", "input", "--target", "target"),
    "contrastive": ours("score", "exported", "--contrastive", "contrastive", "--threads", "1"),
    "translate exported": ours("translate", "exported", "--input", "input", "--max-len-b", "5",
                               "--threads", "1"),
    "score exported": ours("score", "exported", "--source", "input", "--target", "target",
                           "--threads", "1"),
    "lesion": ours("lesion", "model.pt", "data", "--out", "out", "--cpu", "--max-len-b", "5",
                   "--slots", "2"),
    "export": ours("export", "model.pt", "data", "--out", "out"),
    "average": ours("average", "model.pt", "--out", "out"),
    "attention": ours("attention", "model.pt", "--data", "data", "--input", "input", "--target",
                      "target", "--out", "out"),
    "context": ours("context", "documents.pt", "data", "--cpu", "--out", "out.json"),
    "translate documents": ours("translate", "documents.pt", "--data", "data", "--input", "input",
                                "--documents", "--max-len-b", "5"),
}  # fmt: skip
FAIRSEQS: dict[str, Callable[[], object]] = {
    "generate": fairseqs(fairseq_cli.generate, "data", *PATH, *PAIR, *SHORT),
    "generate documents": fairseqs(
        fairseq_cli.generate, "data", "--path", "documents.pt", "--task", "document_translation",
        "--max-tokens", "500", *commands.EVERY_SENTENCE, *PAIR, *SHORT,
    ),
    "interactive": fairseqs(fairseq_cli.interactive, "data", "--path", "model.pt", *PAIR, *SHORT),
    "validate": fairseqs(
        fairseq_cli.validate, "data", *PATH, "--task", "translation", "--valid-subset", "test"
    ),
    "train": fairseqs(
        fairseq_cli.train, "data", "--restore-file", "model.pt", "--save-dir", "out",
        "--valid-subset", "test", "--train-subset", "test", "--max-tokens", "500",
        "--max-update", "1", "--memory-tokens", "2", "--memory-decoder-tokens", "1",
        "--share-all-embeddings", *trained_models.SMALL, "--reset-optimizer",
        "--no-epoch-checkpoints", *commands.EVERY_SENTENCE,
    ),
    "from_pretrained": from_pretrained,
}  # fmt: skip
DOORS = {**OURS, **FAIRSEQS}
LONGEST_LINE = 700


def told(door: str, done: Done) -> str:
    """What is wrong with how a command ended; empty if it did its work, or refused in one line."""
    if done.status < 0:
        return f"signal {-done.status} ended it"
    if done.status == 0:
        return ""
    last = done.last_line
    if not last or len(last) > LONGEST_LINE:
        return f"the last line has {len(last)} characters"
    if door in OURS and (not last.startswith("fairseq") or "Traceback" in done.stderr):
        return "no line of ours"
    if "Incorrect dictionary format" in last:  # fairseq's own, which repeats the line as it is
        return ""
    if not last.replace("\t", " ").isprintable():  # torch's own has some
        return "the last line has control characters"
    return ""
