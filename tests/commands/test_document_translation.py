"""``--task document_translation`` through fairseq's commands."""

import json
import math
import random
import re
import shutil

import pytest
import torch
from helpers.commands import hypotheses, run
from helpers.in_process import generate, train, train_on_two

from fairseq_mem import UserError
from fairseq_mem.tools import cli
from fairseq_mem.tools import score as scoring
from fairseq_mem.tools.loading import load_translation_model
from fairseq_mem.tools.translate import command

pytestmark = pytest.mark.cli

LANGUAGES = ("de", "en")
TASK = ["--task", "document_translation"]
DOCUMENTS = [
    *TASK, "--memory-tokens", "3", "--memory-recurrence", "3", "--share-all-embeddings",
    "--update-epoch-batch-itr", "True",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Binarised documents of 1 to 6 sentences; ``text`` beside it."""
    folder = tmp_path_factory.mktemp("documents")
    numbers = random.Random(0)
    names = "null eins zwei drei vier fünf sechs sieben acht neun".split()
    for split, count in (("train", 30), ("valid", 6), ("test", 5)):
        lines = {"de": [], "en": [], "documents": []}
        for document in range(count):
            for _ in range(numbers.randrange(1, 7)):
                digits = [numbers.randrange(10) for _ in range(numbers.randrange(2, 8))]
                lines["de"].append(" ".join(map(str, digits)))
                lines["en"].append(" ".join(names[digit] for digit in digits))
                lines["documents"].append(f"document {document}")
        for name, rows in lines.items():
            (folder / f"{split}.{name}").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "--source-lang", "de", "--target-lang", "en", "--joined-dictionary",
        *(word for split in ("train", "valid", "test")
          for word in (f"--{split}pref", folder / split)),
        "--destdir", folder / "bin", "--workers", "1",
    )  # fmt: skip
    for split in ("train", "valid", "test"):
        shutil.copy(folder / f"{split}.documents", folder / "bin")
    return folder / "bin"


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A checkpoint that was trained for two epochs."""
    return train(data, tmp_path_factory.mktemp("document-model"), *DOCUMENTS, "--max-epoch", "2")


@pytest.fixture(scope="module")
def stock_model(data, tmp_path_factory):
    """One without memory, with three sentences in front of the source."""
    options = [*TASK, "--context-sentences", "3", "--window-sentences", "3", "--max-epoch", "1"]
    return train(data, tmp_path_factory.mktemp("stock-model"), *options, "--memory-tokens", "0")


def loss(data, checkpoint, split: str, batch: int, **overrides) -> float:
    """Of a word of a split, as fairseq's trainer validates."""
    chosen, cfg, task, _ = load_translation_model(checkpoint, data, overrides)
    task.load_dataset(split, task_cfg=cfg.task)
    criterion, total, words = task.build_criterion(cfg.criterion), 0.0, 0
    for sample in task.get_batch_iterator(
        task.dataset(split), max_sentences=batch
    ).next_epoch_itr():
        found, count, _ = task.valid_step(sample, chosen, criterion)
        total, words = total + float(found), words + count
    return total / words


def generated(data, checkpoint, *options) -> list[str]:
    return hypotheses(
        generate(data, checkpoint, *TASK, "--beam", "2", "--max-len-b", "12", *options)
    )


def translations(rows: list[str]) -> list[tuple[str, str]]:
    return [(row.split("\t")[0], row.split("\t")[2]) for row in rows]


def names(data) -> list[str]:
    return (data.parent / "test.documents").read_text().splitlines()


def test_every_sentence_has_its_translation_whatever_the_batches(data, model):
    found = generated(data, model, "--batch-size", "1")
    assert [row.split("\t")[0] for row in found] == [f"H-{n}" for n in range(len(names(data)))]
    for options in (["--max-tokens", "60"], ["--batch-size", "4"]):
        assert translations(generated(data, model, *options)) == translations(found)
    # memory that begins anew gives other scores, and the first sentences' are the same
    fresh = generated(data, model, "--model-overrides", "{'memory_recurrence': 0}")
    documents = names(data)
    begins = {n for n, name in enumerate(documents) if n == 0 or documents[n - 1] != name}
    scores = [[float(row.split("\t")[1]) for row in rows] for rows in (found, fresh)]
    same = {n for n, (a, b) in enumerate(zip(*scores, strict=True)) if abs(a - b) < 1e-6}
    assert begins <= same and len(same) < len(found)


def test_options_of_fairseq_generate(data, model):
    rows = generated(data, model, "--score-reference")
    lengths = [len(row.split("\t")[2].split()) + 1 for row in rows]
    told = sum(-float(row.split("\t")[1]) * n for row, n in zip(rows, lengths, strict=True))
    for batch in (1, 5):
        assert abs(told / sum(lengths) * math.log(2) - loss(data, model, "test", batch)) < 1e-3
    assert abs(loss(data, model, "test", 5, memory_recurrence=0) - loss(data, model, "test", 5)) > 0
    for options in (
        ["--prefix-size", "1"],
        ["--path", f"{model}:{model}"],
        ["--model-overrides", "{'memory_tokens': 2}"],
        ["--model-overrides", "{'memory_tokens': 0}"],
        ["--model-overrides", "{'memory_lesion': 'no-read', 'memory_lesion_scope': 'all'}"],
        ["--print-alignment"],
    ):
        assert len(generated(data, model, *options)) == len(rows)
    assert 0 < len(generated(data, model, "--num-shards", "2", "--shard-id", "1")) <= len(rows)


def test_training_validates_through_documents(data, tmp_path):
    trained = train(data, tmp_path, *DOCUMENTS, "--max-epoch", "1", "--batch-size-valid", "3")
    told = torch.load(trained)["extra_state"]["val_loss"]  # to three places
    assert abs(told - loss(data, trained, "valid", 7) / math.log(2)) < 2e-3


def test_a_resumed_training_is_the_uninterrupted_one(data, tmp_path):
    """Interrupted within an epoch; the windows of every epoch are cut anew."""
    each = [*DOCUMENTS, "--max-tokens", "300", "--save-interval-updates", "5"]
    whole = train(data, tmp_path / "whole", *each, "--max-update", "9")
    train(data, tmp_path / "parts", *each, "--max-update", "5")
    parts = train(data, tmp_path / "parts", *each, "--max-update", "9")
    one, other = torch.load(whole), torch.load(parts)
    assert one["extra_state"]["train_iterator"] == other["extra_state"]["train_iterator"]
    assert one["extra_state"]["train_iterator"]["epoch"] > 1
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


def test_two_processes_are_one(data, tmp_path):
    """Two with half of the batches each, or one that takes two batches for an update."""
    each = [*DOCUMENTS, "--max-epoch", "2", "--batch-size", "4", "--optimizer", "sgd"]
    two = torch.load(train_on_two(data, tmp_path / "two", *each))
    one = torch.load(train(data, tmp_path / "one", *each, "--update-freq", "2"))
    updates = [state["optimizer_history"][-1]["num_updates"] for state in (one, two)]
    assert updates[0] == updates[1] > 2
    assert "encoder.carry.gate.weight" in one["model"]
    for name, value in one["model"].items():
        torch.testing.assert_close(value, two["model"][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [["transformer"], ["mem_transformer", "--memory-tokens", "3"]])
def test_two_stages(data, tmp_path, caplog, options):
    """Of a stock transformer, or of a model of sentences, a model of documents."""
    arch, *options = options
    shared = ["--share-all-embeddings", "--max-epoch", "1"]
    first = train(data, tmp_path / "first", *shared, *options, arch=arch)
    caplog.clear()
    train(data, tmp_path / "second", *DOCUMENTS, "--max-epoch", "1", "--finetune-from-model", first)
    said = caplog.text
    assert said.count("gate of memory is freshly") == 1
    assert said.count("has no encoder.memory:") == (arch == "transformer")


def test_sentences_in_front_of_the_source(data, stock_model):
    """What it was trained with counts at inference."""
    output = generate(data, stock_model, *TASK, "--max-len-b", "9")
    sources = dict(re.findall(r"^S-(\d+)\t(.*)", output, re.MULTILINE))
    lines = (data.parent / "test.de").read_text().splitlines()
    documents = names(data)
    for number in range(len(lines)):
        begin = max(number - 3, documents.index(documents[number]))
        assert sources[str(number)] == " ".join(lines[begin : number + 1])


@pytest.mark.parametrize("options", [
    ["--context-sentences", "2"],
    ["--memory-tokens", "3", "--memory-recurrence", "2"],
])  # fmt: skip
def test_data_whose_sentences_fairseq_reads_ahead(data, tmp_path, options):
    """A sentence needs those in front of it, which --dataset-impl cached reads when it is told."""
    copy = tmp_path / "bin"
    run(
        "fairseq-preprocess", "--source-lang", "de", "--target-lang", "en", "--dataset-impl",
        "cached", "--srcdict", data / "dict.de.txt", "--tgtdict", data / "dict.en.txt",
        *(word for split in ("train", "valid", "test")
          for word in (f"--{split}pref", data.parent / split)),
        "--destdir", copy, "--workers", "1",
    )  # fmt: skip
    for split in ("train", "valid", "test"):
        shutil.copy(data / f"{split}.documents", copy)
    words = ["--share-all-embeddings", "--max-epoch", "1"]
    if "--memory-tokens" not in options:
        words += ["--memory-tokens", "0"]
    # (fairseq's trainer takes no such data)
    checkpoint = train(data, tmp_path / "model", *TASK, *options, *words)
    assert generated(copy, checkpoint) == generated(data, checkpoint)


@pytest.mark.parametrize("options, said", [
    ([*DOCUMENTS, "--window-sentences", "1"], "window_sentences is 1, the sentence itself"),
    ([*TASK, "--memory-recurrence", "1"], "memory_recurrence is 1, the sentence itself"),
    ([*TASK, "--read-before", "4"], "read_before is 4, and this model hands nothing on"),
])  # fmt: skip
def test_options_without_effect_are_named(data, tmp_path, caplog, options, said):
    train(data, tmp_path, *options, "--max-update", "1")
    assert said in caplog.text


@pytest.mark.parametrize("options, said", [
    (["--memory-recurrence", "3"], "give --task document_translation"),
    ([*TASK, "--memory-recurrence", "3", "--window-sentences", "0"], "window_sentences is 0"),
    ([*TASK, "--context-sentences", "-1"], "context_sentences is -1"),
    ([*TASK, "--load-alignments"], "--load-alignments does not go with"),
])  # fmt: skip
def test_bad_options_end_in_one_clear_line(data, tmp_path, options, said):
    with pytest.raises(UserError, match=said) as error:
        train(data, tmp_path, "--max-update", "1", *options)
    assert "\n" not in str(error.value)


def test_a_documents_file_that_does_not_fit(data, tmp_path):
    copy = tmp_path / "bin"
    shutil.copytree(data, copy)
    (copy / "train.documents").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"train\.documents has 2 lines"):
        train(copy, tmp_path / "model", *DOCUMENTS, "--max-update", "1")


def test_an_ensemble_of_both_kinds_is_refused(data, model, tmp_path):
    other = train(data, tmp_path, *TASK, "--memory-tokens", "0", "--share-all-embeddings",
                  "--max-update", "1")  # fmt: skip
    with pytest.raises(UserError, match="give models of one kind"):
        generate(data, f"{model}:{other}", *TASK)


@pytest.mark.parametrize("name, lines", [
    ("model", 1), ("model", 4), ("model", 1000), ("stock_model", 4),
])  # fmt: skip
def test_raw_text_by_documents(data, name, tmp_path, monkeypatch, request, lines):
    """Line by line, in chunks that cut documents, and all at once: as fairseq-generate."""
    model = request.getfixturevalue(name)
    monkeypatch.setattr(command, "CHUNK_LINES", lines)
    found = translations(
        hypotheses(
            generate(data, model, *TASK, "--batch-size", "1", "--beam", "2", "--max-len-a", "1.2",
                     "--max-len-b", "10")
        )
    )  # fmt: skip
    text, expected = [""], [""]  # an empty line begins no document
    documents, sources = names(data), (data.parent / "test.de").read_text().splitlines()
    for number, line in enumerate(sources):
        if number > 0 and documents[number - 1] != documents[number]:
            text += ["", " "]
            expected += ["", ""]
        text.append(line)
        expected.append(found[number][1])
    (tmp_path / "text").write_text("\n".join(text) + "\n")
    words = ["translate", str(model), "--data", str(data), "--documents", "--beam", "2",
             "--input", str(tmp_path / "text"), "--output", str(tmp_path / "out")]  # fmt: skip
    assert cli.main(words) == 0
    assert (tmp_path / "out").read_text().splitlines() == expected


def test_sentences_in_front_of_a_window_are_read_by_default(data, model, stock_model):
    for checkpoint, given, read in ((model, None, 8), (model, 0, 0), (stock_model, None, 0)):
        _, cfg, task, _ = load_translation_model(checkpoint, data)
        task.cfg.read_before = given
        task.load_dataset("train", combine=True, task_cfg=cfg.task)
        windows = task.dataset("train")
        assert windows.before == read
        assert ("before" in windows.collater([windows[0]])) == (read > 0)


def test_batches_count_the_sentences_in_front(data, stock_model, tmp_path, monkeypatch):
    """A source of four sentences takes the room of four."""
    batches = []
    rows_of = command.FairseqEngine._rows

    def recorded(engine, sources, indices):
        rows = rows_of(engine, sources, indices)
        batches.append((len(rows), max(map(len, rows))))
        return rows

    monkeypatch.setattr(command.FairseqEngine, "_rows", recorded)
    sides = [str(data.parent / f"test.{language}") for language in LANGUAGES]
    common = [str(stock_model), "--data", str(data), "--documents", "--batch-tokens", "70",
              "--output", str(tmp_path / "out")]  # fmt: skip
    for words in (
        ["translate", *common, "--input", sides[0], "--max-len-b", "5"],
        ["score", *common, "--source", sides[0], "--target", sides[1]],
    ):
        batches.clear()
        assert cli.main(words) == 0
        assert max(longest for _, longest in batches) > 20
        assert all(count * longest <= 70 for count, longest in batches)
        assert max(count for count, _ in batches) > 2


@pytest.mark.parametrize("lines", [1, 4, 1000])
def test_given_translations_by_documents(data, model, tmp_path, monkeypatch, lines):
    """In chunks that cut documents: fairseq-generate's numbers, and empty lines stay."""
    monkeypatch.setattr(scoring, "CHUNK", lines)
    reference = generate(data, model, *TASK, "--score-reference")
    expected = [
        math.fsum(float(n) for n in row.split("\t")[1].split()) * math.log(2)
        for row in sorted(
            (row for row in reference.splitlines() if row.startswith("P-")),
            key=lambda row: int(row.split("\t")[0][2:]),
        )
    ]
    documents = names(data)
    sides = [(data.parent / f"test.{language}").read_text().splitlines() for language in LANGUAGES]
    files = [tmp_path / language for language in LANGUAGES]
    for side, file in zip(sides, files):
        text = [side[0]]
        for number, line in enumerate(side[1:], 1):
            text += ["" if documents[number - 1] != documents[number] else None, line]
        file.write_text("".join(f"{line}\n" for line in text if line is not None))
    out = tmp_path / "out"
    words = ["score", model, "--data", data, "--documents", "--source", files[0], "--target",
             files[1], "--output", out]  # fmt: skip
    assert cli.main([*map(str, words)]) == 0
    rows = out.read_text().split("\n")[:-1]
    assert [row == "" for row in rows] == [
        line == "" for line in files[0].read_text().split("\n")[:-1]
    ]
    assert [float(row) for row in rows if row] == pytest.approx(expected, abs=1e-3)
    assert cli.main([*map(str, words), "--json"]) == 0
    ends = [json.loads(line).get("document_end", False) for line in out.read_text().splitlines()]
    assert ends == [row == "" for row in rows]
    files[1].write_text(files[1].read_text().replace("\n\n", "\n1\n", 1))
    with pytest.raises(UserError, match=r"is empty and that of .* is not; with --documents"):
        cli.main([*map(str, words)])


def test_a_contrastive_test_of_documents(data, model, tmp_path):
    """The context is read, once for all candidates, and only with --documents."""
    documents = names(data)
    end = max(n for n in range(1, len(documents)) if documents[n - 1] == documents[n])
    start = documents.index(documents[end])
    source, target = (
        (data.parent / f"test.{language}").read_text().splitlines() for language in LANGUAGES
    )
    items = [
        {"source": source[end], "candidates": [target[end], target[end] + " 1"],
         "context": source[start:end]},
        {"source": source[end], "candidates": [target[end], "1"], "context": []},
        {"source": source[end], "candidates": [target[end], "1"]},
        {"source": "", "candidates": ["1", "2"], "context": source[:1]},
        {"source": source[end], "candidates": ["1", "2"], "context": ["1 " * 2000]},
    ]  # fmt: skip
    (tmp_path / "set").write_text("".join(json.dumps(item) + "\n" for item in items))
    words = ["score", model, "--data", data, "--contrastive", tmp_path / "set", "--json",
             "--output", tmp_path / "out"]  # fmt: skip
    assert cli.main([*map(str, words), "--documents"]) == 3
    behind, *fresh, empty, long = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert fresh[0]["scores"] == fresh[1]["scores"]
    assert abs(behind["scores"][0] - fresh[0]["scores"][0]) > 1e-6
    assert "no words" in empty["error"] and "a sentence of the context" in long["error"]
    for side, lines in zip(LANGUAGES, (source, target)):
        (tmp_path / side).write_text("\n".join(lines[start : end + 1]) + "\n")
    files = ["--source", tmp_path / "de", "--target", tmp_path / "en"]
    cli.main([*map(str, [*words[:4], "--documents", *files, "--output", tmp_path / "out"])])
    assert behind["scores"][0] == pytest.approx(
        float((tmp_path / "out").read_text().splitlines()[-1]), abs=1e-4
    )
    assert cli.main([*map(str, words)]) == 0
    alone = json.loads((tmp_path / "out").read_text().splitlines()[0])
    assert alone["scores"][0] == pytest.approx(fresh[0]["scores"][0], abs=1e-4)


def test_a_line_that_cannot_be_used_ends_no_document(data, model, tmp_path):
    """Neither one of a million bytes nor one that is not UTF-8; a no-break space does, as in
    preprocess.sh.
    """  # fmt: skip
    words = ["translate", model, "--data", data, "--documents", "--json", "--input",
             tmp_path / "text", "--output", tmp_path / "out"]  # fmt: skip
    scores = []
    for between in (b"", b"x" * 2_000_000 + b"\n", b"\xff\n", b"\n", "\u00a0\n".encode()):
        (tmp_path / "text").write_bytes(b"1 2 3 4\n" + between + b"2 3 1\n")
        cli.main([*map(str, words)])
        last = json.loads((tmp_path / "out").read_text().splitlines()[-1])
        scores.append(last["translations"][0]["score"])
    assert scores[0] == scores[1] == scores[2] != scores[3] == scores[4]


def test_raw_text_without_documents(data, model, tmp_path, capsys):
    """It is said that every line is a document; a model of sentences refuses --documents."""
    (tmp_path / "text").write_text("1 2 3\n")
    words = ["translate", str(model), "--data", str(data), "--input", str(tmp_path / "text")]
    assert cli.main(words) == 0
    assert "is a model of documents; without --documents" in capsys.readouterr().err
    sentence = train(data, tmp_path, "--memory-tokens", "0", "--max-update", "1")
    with pytest.raises(UserError, match="translates sentence by sentence; leave it out"):
        cli.main(["translate", str(sentence), "--data", str(data), "--documents"])


def test_export_is_refused(data, model, tmp_path):
    with pytest.raises(UserError, match="--memory-recurrence 3, and CTranslate2 hands no memory"):
        cli.main(["export", str(model), str(data), "--out", str(tmp_path / "exported")])
