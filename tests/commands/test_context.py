"""``fairseq-mem context`` on a model that has learned what only its document says."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import make_builder
from helpers.in_process import train
from helpers.trained_models import dictionary

from fairseq_mem import UserError
from fairseq_mem.streaming.documents import Documents
from fairseq_mem.tools import cli
from fairseq_mem.tools.context import of_sentences, others

pytestmark = pytest.mark.cli
TASK = ["--task", "document_translation", "--memory-tokens", "2", "--memory-recurrence", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first word of a document is the translation of all of its other sentences."""
    folder = tmp_path_factory.mktemp("context")
    numbers = np.random.default_rng(1)
    words = {language: dictionary(language, joined=False) for language in ("de", "en")}
    for language, made in words.items():
        made.save(str(folder / f"dict.{language}.txt"))
    for split, count in (("train", 1200), ("test", 40)):
        builders = {
            language: make_builder(
                str(folder / f"{split}.de-en.{language}.bin"), "mmap", vocab_size=len(made)
            )
            for language, made in words.items()
        }
        names = []
        for document in range(count):
            topic = numbers.integers(2)
            for place in range(3):
                source = f"s{topic}" if place == 0 else "s5"
                for language, word in (("de", source), ("en", f"t{topic}")):
                    tokens = [words[language].index(word), words[language].eos()]
                    builders[language].add_item(torch.tensor(tokens))
                names.append(f"{document}\n")
        for language, builder in builders.items():
            builder.finalize(str(folder / f"{split}.de-en.{language}.idx"))
        (folder / f"{split}.documents").write_text("".join(names))
    return folder


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("model"), *TASK, "--source-lang", "de",
                 "--target-lang", "en", "--max-update", "100", "--batch-size", "32",
                 "--optimizer", "adam", "--lr", "0.005", "--clip-norm", "1")  # fmt: skip


def rows(data, model, folder, *options) -> dict:
    out = folder / "context.json"
    cli.main(["context", str(model), str(data), "--cpu", "--out", str(out), *options])
    return {row["places"]: row for row in json.loads(out.read_text())["rows"]}


def test_what_cannot_be_known_without_the_document_is_learned(data, model, tmp_path, capsys):
    found = rows(data, model, tmp_path)
    assert list(found) == ["1", "2", "3", "2 on", "all"]
    told = capsys.readouterr().out
    assert told.startswith("| sentence |") and told.count("\n") == 7
    behind = found["2 on"]
    assert behind["losses"]["carried"] < 0.05
    # one word of two: log 2 over the word and the end mark, or worse, where it was certain
    assert behind["losses"]["other"] > 0.3
    difference, low, high = behind["differences"]["other"]
    assert 0.3 < low <= difference <= high
    assert found["1"]["differences"]["reset"] == [0, 0, 0]
    small = rows(data, model, tmp_path, "--max-tokens", "9")
    assert small["all"]["losses"] == pytest.approx(found["all"]["losses"], abs=1e-4)


def test_lesions_are_measured_with_memory_carried(data, model, tmp_path):
    carried = rows(data, model, tmp_path)["all"]["losses"]["carried"] / math.log(2)  # bits
    lesion = ["lesion", str(model), str(data), "--out", str(tmp_path), "--cpu", "--slots", "2"]
    cli.main([*lesion, "--max-len-b", "3", "--tokenizer", "none"])
    with (tmp_path / "lesion.csv").open(encoding="utf-8") as file:
        whole = next(csv.DictReader(file))
    assert float(whole["loss"]) == pytest.approx(carried, abs=1e-4)
    cli.main([*lesion, "--by-slot"])
    (path,) = tmp_path.glob("results/*/whole.json")
    found = json.loads(path.read_text())
    assert sum(found["losses"]) / math.log(2) / sum(found["tokens"]) == pytest.approx(
        carried, abs=1e-4
    )


def test_padding_is_no_part_of_a_sentences_loss():
    class Guesses:
        def __call__(self):
            return torch.zeros(2, 3, 8)

        def get_normalized_probs(self, logits, log_probs):
            return logits.log_softmax(-1)

    found = of_sentences(Guesses(), {}, torch.tensor([[4, 5, 2], [4, 2, 1]]), pad=1)
    assert found.tolist() == pytest.approx([3 * math.log(8), 2 * math.log(8)])


def test_random_documents_are_others_at_the_same_place():
    documents = Documents([2, 5, 1, 3])
    as_if = others(documents, 1)
    of = np.searchsorted(documents.starts, np.arange(documents.sentences), side="right")
    other = np.searchsorted(documents.starts, as_if, side="right")
    assert (of != other).all()
    places = np.arange(documents.sentences) - documents.first
    assert (as_if - documents.first[as_if] <= places).all()
    assert as_if[0] in documents.starts and as_if[1] - as_if[0] == 1


def test_models_and_data_that_carry_nothing(data, model, tmp_path, capsys):
    sentence = train(data, tmp_path, "--source-lang", "de", "--target-lang", "en",
                     "--memory-tokens", "2", "--max-update", "1")  # fmt: skip
    with pytest.raises(UserError, match="carries nothing from sentence to sentence"):
        cli.main(["context", str(sentence), str(data), "--cpu"])
    words = ["--task", "document_translation", "--source-lang", "de", "--target-lang", "en"]
    fresh = train(data, tmp_path / "fresh", *words, "--memory-tokens", "2", "--max-update", "1")
    cli.main(["context", str(fresh), str(data), "--cpu", "--out", str(tmp_path / "fresh.json")])
    assert "carries nothing from sentence to sentence" in capsys.readouterr().err
    for row in json.loads((tmp_path / "fresh.json").read_text())["rows"]:
        assert row["losses"]["carried"] == row["losses"]["other"] > 0
        assert row["differences"]["reset"] == [0, 0, 0]
    with pytest.raises(UserError, match="--max-tokens 1 is less than the longest sentence: 2"):
        cli.main(["context", str(model), str(data), "--cpu", "--max-tokens", "1"])
    with pytest.raises(UserError, match="there is no split 'valid'"):
        cli.main(["context", str(model), str(data), "--cpu", "--split", "valid"])
    (data / "test.documents").rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match="fewer than two documents of two sentences"):
            cli.main(["context", str(model), str(data), "--cpu"])
    finally:
        (tmp_path / "away").rename(data / "test.documents")


def test_a_split_that_is_damaged_is_named(data, model, tmp_path):
    """fairseq asserts things of its index."""
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    (copied / "test.de-en.de.idx").write_bytes(b"nonsense " * 20)
    with pytest.raises(UserError, match=r"test of .* cannot be read: .*; binarise it again"):
        cli.main(["context", str(model), str(copied), "--cpu"])
