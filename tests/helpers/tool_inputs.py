"""For every command of `fairseq-mem`, and for `fairseq-train`, the smallest input that it takes."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from fairseq.data import indexed_dataset
from safetensors.torch import save_file

from fairseq_mem.tools.export import export
from helpers import saved_models, trained_models
from helpers.commands import EVERY_SENTENCE, USER_DIR
from helpers.finished_runs import make_run
from helpers.random_models import dictionary

LINES = 4
WIDTH, INNER = 8, 12  # of the BERT
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", "##a"]


class Tool(NamedTuple):
    """A command's words behind its name, of the folder of inputs and the place for its output.

    Attributes:
        words: as on a command line.
        result: whether the output is at that place; else it is the standard output.
        folder: whether that place is a folder.
        train: whether it is fairseq-train, else fairseq-mem.
    """

    words: Callable[[Path, Path], list[object]]
    result: bool = True
    folder: bool = False
    train: bool = False


TOOLS = {
    "translate": Tool(lambda i, o: ["translate", i / "export", "--input", i / "raw/test.de",
                                    "--output", o, "--threads", 1, "--beam", 1]),
    "translate a checkpoint": Tool(
        lambda i, o: ["translate", i / "words/one.pt", "--data", i / "words", "--input",
                      i / "raw/test.de", "--threads", 1, "--beam", 1], result=False),
    "score": Tool(lambda i, o: ["score", i / "export", "--source", i / "raw/test.de", "--target",
                                i / "raw/test.en", "--threads", 1, "--json"], result=False),
    "export": Tool(lambda i, o: ["export", i / "words/one.pt", i / "words", "--out", o, "--force"],
                   folder=True),
    "average": Tool(lambda i, o: ["average", i / "words/one.pt", i / "words/two.pt", "--out", o]),
    "lesion": Tool(lambda i, o: ["lesion", i / "words/one.pt", i / "words", "--out", o, "--cpu",
                                 "--slots", 1, "--beam", 1, "--max-len-b", 5], folder=True),
    "lesion by slot": Tool(lambda i, o: ["lesion", i / "words/one.pt", i / "words", "--out", o,
                                         "--cpu", "--by-slot"], folder=True),
    "report": Tool(lambda i, o: ["report", i / "runs", "--out", o, "--n-samples", 20], folder=True),
    "attention": Tool(lambda i, o: ["attention", i / "words/one.pt", "--data", i / "words",
                                    "--input", i / "raw/test.de", "--out", o, "--beam", 1],
                      folder=True),
    "context": Tool(lambda i, o: ["context", i / "documents.pt", i / "documents", "--out", o,
                                  "--cpu"]),
    "import-bert": Tool(lambda i, o: ["import-bert", i / "bert", "--out", o], folder=True),
    "predict": Tool(lambda i, o: ["predict", i / "classes/model-1.pt", "--data", i / "classes",
                                  "--out", o, "--cpu"]),
    "fairseq-train": Tool(
        lambda i, o: [i / "words", "--user-dir", USER_DIR, *trained_models.SMALL, "--save-dir", o,
                      "--train-subset", "test", "--max-update", 1, "--disable-validation",
                      *EVERY_SENTENCE, "--batch-size", 4, "--num-workers", 0,
                      "--no-progress-bar"],
        folder=True, train=True),
}  # fmt: skip


def make(folder: Path) -> Path:
    """Write all inputs into ``folder``."""
    words = folder / "words"
    memory = ["--memory-tokens", "2"]
    trained_models.train(words, memory, save="one.pt")
    trained_models.train(words, [*memory, "--memory-init-std", "2"], save="two.pt")
    trained_models.write_test_set(words, trained_models.texts(LINES, seed=4))
    export(words / "one.pt", words, folder / "export")
    for seed in (1, 2):
        make_run(folder / f"runs/baseline/{seed}", "baseline", seed, 0.35)
        make_run(folder / f"runs/mem-10/{seed}", "mem-10", seed, 0.1)
    _write_documents(folder)
    _write_bert(folder / "bert")
    _write_classes(folder / "classes")
    return folder


def _binarised(prefix: Path, words: list[list[int]], vocabulary: int) -> None:
    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=vocabulary)
    for line in words:
        builder.add_item(torch.tensor(line))
    builder.finalize(f"{prefix}.idx")


def _write_documents(folder: Path) -> None:
    """A model of documents, and four documents of two sentences."""
    data = folder / "documents"
    flags = ["--task", "document_translation", "--memory-tokens", "2", "--memory-recurrence", "2"]
    shutil.move(trained_models.train(data, flags), folder / "documents.pt")
    for language in ("de", "en"):
        vocabulary = trained_models.dictionary(language, joined=False)
        lines = [[4 + number % 5, vocabulary.eos()] for number in range(LINES)]
        _binarised(data / f"test.de-en.{language}", lines, len(vocabulary))
    (data / "test.documents").write_text("".join(f"{n // 2}\n" for n in range(LINES)))


def _write_classes(folder: Path) -> None:
    """A sentence encoder with a head for two classes, and a test set."""
    draw = random.Random(5)
    for name in ("input0", "label"):
        (folder / name).mkdir(parents=True)
        dictionary(20 if name == "input0" else 2).save(str(folder / name / "dict.txt"))
    size = len(dictionary())
    lines = [[0, *(4 + draw.randrange(20) for _ in range(5)), 2] for _ in range(LINES)]
    _binarised(folder / "input0/test", lines, size)
    _binarised(folder / "label/test", [[4 + draw.randrange(2), 2] for _ in range(LINES)], 6)
    encoder = saved_models.SENTENCE_ENCODER
    flags = ["--task", "sentence_prediction", *encoder[2:-2], "--num-classes", "2",
             "--memory-tokens", "2", "--max-positions", "40"]  # fmt: skip
    saved_models.save(folder, flags, criterion="sentence_prediction")


def _write_bert(folder: Path) -> None:
    """A random BERT of one layer, as Hugging Face saves it, without heads."""
    folder.mkdir()
    shapes = {
        "embeddings.word_embeddings.weight": (len(BERT_WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (20, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "encoder.layer.0.intermediate.dense.weight": (INNER, WIDTH),
        "encoder.layer.0.intermediate.dense.bias": (INNER,),
        "encoder.layer.0.output.dense.weight": (WIDTH, INNER),
        "encoder.layer.0.output.dense.bias": (WIDTH,),
    }
    attention = "encoder.layer.0.attention"
    for name in (*(f"{attention}.self.{part}" for part in ("query", "key", "value")),
                 f"{attention}.output.dense"):  # fmt: skip
        shapes |= {f"{name}.weight": (WIDTH, WIDTH), f"{name}.bias": (WIDTH,)}
    for name in ("embeddings", f"{attention}.output", "encoder.layer.0.output"):
        shapes |= {f"{name}.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, str(folder / "model.safetensors"))
    config = {
        "model_type": "bert", "vocab_size": len(BERT_WORDS), "hidden_size": WIDTH,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": INNER,
        "max_position_embeddings": 20, "type_vocab_size": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in BERT_WORDS))
