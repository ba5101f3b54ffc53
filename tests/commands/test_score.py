"""`fairseq-mem score`: fairseq's own numbers, of checkpoints and exports; contrastive test sets."""

import json
import math
import os
import random
import shutil
import threading

import pytest
import torch
from fairseq.data import Dictionary, indexed_dataset
from fairseq_mem_serve import TextPipeline
from helpers import number_translator
from helpers.commands import EVERY_SENTENCE, fairseq

import fairseq_mem
from fairseq_mem.tools import cli
from fairseq_mem.tools.score import read_pairs

PAIRS = number_translator.pairs(30, seed=21)
# ... and what no model would write: a wrong one, words that nobody knows, one word, a dictionary's
# mark, the longest that it takes
ODD = [
    (PAIRS[0][0], PAIRS[1][1]), ("eins zwei.", "quite another thing"), ("Unbekanntes!", "one"),
    ("eins", "one </s> two"), ("eins zwei", "one " * 39), ("zwei " * 39, "two"),
]  # fmt: skip


@pytest.fixture
def score(tmp_path, capsys):
    """Runs the command; gives the lines of its output, standard error and the exit status."""

    def score(*options: object):
        output = tmp_path / "scores"
        words = ["score", *options, "--threads", 1, "--output", output]
        status = cli.main([*map(str, words)])
        return output.read_text().split("\n")[:-1], capsys.readouterr().err, status

    return score


@pytest.fixture
def files(tmp_path):
    """Writes pairs of raw text; gives the command's options for them."""

    def files(pairs):
        for name, lines in zip(("s", "t"), zip(*pairs)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return "--source", tmp_path / "s", "--target", tmp_path / "t"

    return files


def close(numbers, rel):
    return pytest.approx([float(n) for n in numbers], rel=rel, abs=rel)


@pytest.mark.cli
def test_the_numbers_are_those_of_fairseq_generate(translator_files, tmp_path, score, files):
    """Per sentence and per token, of the checkpoint to 1e-5; of the export to 1e-3 of those."""
    pairs = [*PAIRS, *ODD]
    given = files(pairs)
    by_checkpoint, _, status = score(
        translator_files.checkpoint, "--data", translator_files.data, *given
    )
    assert status == 0 and len(by_checkpoint) == len(pairs)
    by_export, _, _ = score(translator_files.exported, *given)
    assert list(map(float, by_export)) == close(by_checkpoint, 1e-3)

    data = tmp_path / "data-bin"
    data.mkdir()
    for side, language in enumerate(("de", "en")):
        name = f"dict.{language}.txt"
        (data / name).write_bytes((translator_files.data / name).read_bytes())
        words = Dictionary.load(str(data / name))
        other = ("en", "de")[side]
        pipeline = TextPipeline(language, other, codes=translator_files.data / "code")
        path = str(data / f"test.de-en.{language}")
        builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=len(words))
        for pair in pairs:
            tokens = pipeline.split(pair[side])
            builder.add_item(torch.tensor([*map(words.index, tokens), words.eos()]))
        builder.finalize(f"{path}.idx")
    done = fairseq(
        "generate", data, "--path", translator_files.checkpoint, "--score-reference", "--cpu",
        "--gen-subset", "test", "--batch-size", 7, *EVERY_SENTENCE,
    )  # fmt: skip
    found = {}
    for line in done.stdout.splitlines():
        if line[:2] in ("H-", "P-"):
            key, *values = line.split("\t")
            found[key] = values
    lines, _, _ = score(
        translator_files.checkpoint, "--data", translator_files.data, *given, "--json"
    )
    for number, line in enumerate(lines):
        record = json.loads(line)
        tokens = [token["log_prob"] for token in record["tokens"]]
        assert record["line"] == number + 1 and record["tokens"][-1]["token"] == "</s>"
        assert record["score"] == pytest.approx(math.fsum(tokens), abs=1e-9)
        average = float(found[f"H-{number}"][0]) * math.log(2)  # fairseq prints bits
        assert record["score"] / len(tokens) == pytest.approx(average, rel=1e-5, abs=1e-5)
        printed = [float(bits) for bits in found[f"P-{number}"][0].split()]  # of four digits
        assert tokens == pytest.approx([bits * math.log(2) for bits in printed], abs=5e-4)
    averages, _, _ = score(translator_files.exported, *given, "--length-penalty", 1)
    expected = [float(found[f"H-{n}"][0]) * math.log(2) for n in range(len(pairs))]
    assert list(map(float, averages)) == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_the_target_may_have_merges_of_its_own(translator_files, tmp_path, score, files):
    """As with `preprocess.sh --separate`: an export has them too."""
    data = tmp_path / "data"
    shutil.copytree(translator_files.data, data)
    merges = (data / "code").read_text().split("\n")
    (data / "code.en").write_text("\n".join(merges[:20]))
    exported = tmp_path / "exported"
    cli.main(["export", str(translator_files.checkpoint), str(data), "--out", str(exported)])
    assert json.loads((exported / "fairseq_mem.json").read_text())["target_code"] == "target_code"
    given = files(PAIRS)
    mine, _, _ = score(exported, *given)
    of_checkpoint, _, _ = score(translator_files.checkpoint, "--data", data, *given)
    assert list(map(float, mine)) == close(of_checkpoint, 1e-3)
    others, _, _ = score(translator_files.exported, *given)
    assert list(map(float, mine)) != close(others, 1e-3)
    (exported / "target_code").unlink()
    with pytest.raises(fairseq_mem.UserError, match="target_code is missing"):
        score(exported, *given)


def test_a_batch_changes_nothing(translator_files, score, files):
    given = files([*PAIRS, *ODD, ("", "one"), ("eins", ""), ("", "")])
    for model in (
        (translator_files.checkpoint, "--data", translator_files.data),
        (translator_files.exported,),
    ):
        together, _, _ = score(*model, *given)
        alone, _, _ = score(*model, *given, "--batch-tokens", 1)
        assert list(map(float, together)) == close(alone, 1e-5)


def test_what_is_too_long_is_told_and_left_empty(translator_files, score, files):
    pairs = [("eins", "one"), ("eins " * 40, "one"), ("eins", "one " * 40), ("zwei", "two")]
    lines, said, status = score(translator_files.exported, *files(pairs))
    assert status == 3
    assert [bool(line) for line in lines] == [True, False, False, True]
    assert "line 2: the source has 41 tokens" in said
    assert "line 3: the translation has 41 tokens" in said
    lines, _, status = score(translator_files.exported, *files(pairs), "--json")
    assert status == 3 and "error" in json.loads(lines[1]) and "score" in json.loads(lines[3])


def test_the_right_translations_are_preferred(translator_files, tmp_path, score):
    chance = random.Random(0)
    items = []
    for number, (source, target) in enumerate(PAIRS):
        words = target.split()
        kind = ("order", "word")[number % 2]
        if kind == "order":
            words[0], words[-1] = words[-1], words[0]
        else:
            words[chance.randrange(len(words))] = "nine"
        candidates = [target, " ".join(words), f"{target} {target}"]
        items.append({"source": source, "candidates": candidates, "category": kind})
    items.append({"source": "eins.", "candidates": ["nine.", "one."]})  # the wrong one first
    items.append({"source": "eins.", "candidates": ["one.", "one."]})  # a draw is not won
    (tmp_path / "set").write_text("\n".join(map(json.dumps, items)) + "\n\n")
    options = (translator_files.exported, "--contrastive", tmp_path / "set")
    lines, said, status = score(*options, "--json")
    assert status == 0 and len(lines) == len(items)
    records = list(map(json.loads, lines))
    for record, item in zip(records, items):
        assert len(record["scores"]) == len(item["candidates"])
        assert record["category"] == item.get("category", "")
        assert record["right"] == (record["best"] == 0)
        assert record["scores"][record["best"]] == max(record["scores"])
    assert [r["best"] for r in records[-2:]] == [1, 1]
    counts = {
        name: [r["right"] for r in records if r["category"] == name]
        for name in ("order", "word", "")
    }
    plain, _, _ = score(*options)
    assert plain[:2] == ["| category | items | right | accuracy |", "| --- | ---: | ---: | ---: |"]
    assert plain[2] == "| (none) | 2 | 0 | 0.0% |"
    for line, name in zip(plain[3:5], ("order", "word")):
        right, of = sum(counts[name]), len(counts[name])
        assert line == f"| {name} | {of} | {right} | {right / of:.1%} |"
        assert right >= 0.8 * of
    assert plain[5].startswith("| all | 32 |") and len(plain) == 6
    assert all(line in said for line in plain)


BAD_SETS = [
    ("no json", "line 1: no JSON"),
    ("[" * 100_000, "line 1: no JSON"),
    ("[]", "line 1: no object"),
    ('{"source": "a"}', "candidates must be a list"),
    ('{"source": "a", "candidates": "ab"}', "candidates must be a list"),
    ('{"source": "a", "candidates": ["b"]}', "1 candidates, where 2"),
    ('{"source": 1, "candidates": ["b", "c"]}', "must be strings"),
    ('{"source": "a", "candidates": ["b", 1]}', "list of strings"),
]


@pytest.mark.parametrize(("text", "says"), BAD_SETS, ids=[says for _, says in BAD_SETS])
def test_a_line_that_is_no_item_is_named(tmp_path, translator_files, text, says):
    (tmp_path / "set").write_text(text + "\n")
    words = ["score", translator_files.exported, "--contrastive", tmp_path / "set"]
    with pytest.raises(fairseq_mem.UserError, match=says) as stop:
        cli.main([*map(str, words)])
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give --source and --target, or --contrastive"),
        (["--source", "{s}"], "give --source and --target, or --contrastive"),
        (["--source", "{s}", "--target", "{s}", "--contrastive", "{s}"], "--contrastive alone"),
        (["--source", "{s}", "--target", "nowhere"], "cannot read --target nowhere"),
        (["--source", "{s}", "--target", "{t}"], "2 lines, .* 1; line N"),
        (["--source", "{s}", "--target", "{latin}"], "not valid UTF-8"),
        (["--source", "{s}", "--target", "{s}", "--length-penalty", "11"], "give -10 to 10"),
    ],
)
def test_bad_arguments_are_told_in_a_line(tmp_path, translator_files, options, says):
    (tmp_path / "s").write_text("a\nb\n")
    (tmp_path / "t").write_text("a\n")
    (tmp_path / "latin").write_bytes(b"\xfc\nb\n")
    names = {name: tmp_path / name for name in ("s", "t", "latin")}
    words = ["score", str(translator_files.exported), *(o.format(**names) for o in options)]
    with pytest.raises(fairseq_mem.UserError, match=says) as stop:
        cli.main(words)
    assert "\n" not in str(stop.value)


def test_no_lines_give_no_lines(translator_files, score, tmp_path):
    (tmp_path / "s").write_text("")
    (tmp_path / "t").write_text("")
    names = ("--source", tmp_path / "s", "--target", tmp_path / "t")
    assert score(translator_files.exported, *names)[::2] == ([], 0)


def test_a_pipe_has_lines(tmp_path):
    """As of ``--source <(zcat text.gz)``; it has no size."""
    paths = [tmp_path / name for name in ("source", "target")]
    for path in paths:
        os.mkfifo(path)
        threading.Thread(target=path.write_text, args=("a\nb\n",), daemon=True).start()
    assert [pair[:2] for pair in read_pairs(*paths)] == [("a", "a"), ("b", "b")]
