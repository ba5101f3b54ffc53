"""The GLUE example: your own text, from pre-training to the report; what is read, and refused."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile

import pytest
from fairseq_mem_text.errors import TextError
from helpers.commands import ROOT, programs
from sklearn.metrics import f1_score, matthews_corrcoef

from fairseq_mem import MemRobertaModel, UserError
from fairseq_mem.tools import cli

GLUE = ROOT / "examples/glue"


@pytest.fixture(scope="module")
def glue():
    """The module that reads and binarises."""
    from examples.glue import glue

    return glue


def script(name, *arguments, check=True, stdin=None, **variables):
    environment = {
        **os.environ, "GPUS": "0", "OMP_NUM_THREADS": "1",
        "PATH": programs(),
        **{key: str(value) for key, value in variables.items()},
    }  # fmt: skip
    done = subprocess.run(
        [GLUE / name, *map(str, arguments)], capture_output=True, text=True, env=environment,
        input=stdin,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def write_rows(folder, name, heading, make, counts):
    generator = random.Random(0)
    for split, count in counts.items():
        rows = ["\t".join(make(generator)) for _ in range(count)]
        (folder / f"{name}.{split}.tsv").write_text("\n".join([heading, *rows]) + "\n")


def more_red_than_blue(generator):
    """A label that depends on every word of the sentence."""
    while True:
        words = generator.choices(["red", "blue", "grey"], k=generator.randrange(3, 10))
        if words.count("red") != words.count("blue"):
            return str(int(words.count("red") > words.count("blue"))), " ".join(words)


def difference_of_lengths(generator):
    """A score of a pair."""
    lengths = generator.randrange(1, 7), generator.randrange(1, 7)
    return str(lengths[0] - lengths[1]), *(" ".join(["grey"] * length) for length in lengths)


def test_a_text_has_one_vocabulary_in_which_signs_are_text(glue, tmp_path):
    """Ties between pieces are settled in the same way in every process."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(random.Random(n).choices(letters, k=6)) for n in range(400)]
    (tmp_path / "text").write_text("\n".join(map(" ".join, zip(*[iter(words)] * 4))) + "\n[SEP]\n")
    for out in ("one", "two"):
        subprocess.run(
            [sys.executable, GLUE / "vocabulary.py", tmp_path / "text", tmp_path / out, "300"],
            check=True,
        )  # fmt: skip
    for name in ("tokenizer.json", "dict.txt", "data/train.bin"):
        one, two = ((tmp_path / out / name).read_bytes() for out in ("one", "two"))
        assert one == two, name
    pieces = glue.Pieces(tmp_path / "one")
    assert len((tmp_path / "one/dict.txt").read_text().splitlines()) == 300 - 5
    assert "[SEP]" not in pieces.cut("[SEP]") and pieces.cut("[SEP]")[0] == "["


@pytest.mark.cli
def test_from_pre_training_to_the_report(glue, tmp_path):
    counts = dict(train=600, valid=60, test=60)
    write_rows(tmp_path, "mine", "label\tsentence", more_red_than_blue, counts)
    write_rows(tmp_path, "pairs", "score\tsentence1\tsentence2", difference_of_lengths, counts)
    text = tmp_path / "text.txt"
    rows = (tmp_path / "mine.train.tsv").read_text().splitlines()[1:]
    text.write_text("".join(row.split("\t")[1] + "\n" for row in rows))
    encoder = tmp_path / "encoder"
    size = (
        "--arch mem_roberta_small --encoder-layers 2 --encoder-embed-dim 32 "
        "--encoder-ffn-embed-dim 32 --encoder-attention-heads 2"
    )
    script("pretrain.sh", text, encoder, UPDATES=20, TOKENS=3, WORDS=40, ARCH_FLAGS=size)
    shared = dict(
        MODEL=encoder, START=encoder, WORK=tmp_path / "work", DATA=tmp_path / "work/data",
        RUNS=tmp_path / "runs", SCHEDULE="quick", UPDATES=200, LR="3e-3",
        TRAIN_FLAGS="--dropout 0 --attention-dropout 0",
    )  # fmt: skip
    for task in ("mine", "pairs"):
        words = ["--task", task]
        for split in counts:
            words += [f"--{split}", f"{tmp_path}/{task}.{split}.tsv"]
        if task == "mine":
            script("prepare.sh", *words, **shared)
        else:  # what it ends in
            out = str(shared["DATA"] / task)
            glue.main(glue.parse([str(tmp_path), out, "--model", str(encoder), *words]))
    done = script(
        "table.sh", "--models", "baseline", "mem-bottleneck-2", "--seeds", 1,
        "--jobs", 2, **shared,
    )  # fmt: skip
    report = (tmp_path / "runs/report/report.md").read_text()
    assert "MemBottleneck 2" in report and "p by seed" in report, done.stdout
    for task, metric in (("mine", "accuracy"), ("pairs", "Pearson")):
        for model in ("baseline", "mem-bottleneck-2"):
            run = tmp_path / "runs" / task / model / "seed-1"
            result = json.loads((run / "result.json").read_text())
            lines = (run / "predictions.tsv").read_text().splitlines()
            assert len(lines) == 61 and lines[0] == "target\tprediction"
            least = 90 if model == "baseline" else 75
            assert result["metrics"][metric]["value"] > least, (task, model, result["metrics"])
    shown = script("run.sh", "pairs", "mem-ctrl-5-head-frozen", 1, DRY_RUN=1, **shared).stdout
    for flags in ("--memory-tokens 5 --memory-update ctrl", "--memory-head memory",
                  "--memory-frozen", "--regression-target", "--batch-size 64"):  # fmt: skip
        assert flags in shown
    assert "--no-shuffle" not in shown  # rows are sorted by length: whole batches would be, too
    few = script("run.sh", "pairs", "baseline", 2, DRY_RUN=1, ROWS=8, **shared).stdout
    assert "--batch-size 8 --update-freq 8 --no-shuffle" in few
    done = script("run.sh", "pairs", "baseline", 2, check=False, ROWS=7, **shared)
    assert done.returncode == 1 and "divides BATCH=64" in done.stderr.splitlines()[-1]
    run = tmp_path / "runs/mine/mem-bottleneck-2/seed-1"
    hub = MemRobertaModel.from_pretrained(
        str(run), "model.pt", str(tmp_path / "work/data/mine"), bpe="wordpiece",
        wordpiece_file=str(encoder / "tokenizer.json"),
    ).eval()  # fmt: skip
    texts = (tmp_path / "mine.test.tsv").read_text().splitlines()[1:]
    lines = (run / "predictions.tsv").read_text().splitlines()[1:]
    for row, line in zip(texts, lines, strict=True):
        scores = hub.predict("sentence_classification_head", hub.encode(row.split("\t")[1]))
        assert line == f"{row[0]}\t{int(scores.argmax())}"
    # a lesion through the command, in a process of its own
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_mem", "predict", run / "model.pt", "--data",
         tmp_path / "work/data/mine", "--out", tmp_path / "blind.tsv", "--cpu",
         "--model-overrides", "{'memory_lesion': 'no-read'}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    blind = (tmp_path / "blind.tsv").read_text().splitlines()[1:]
    assert len({line.split("\t")[1] for line in blind}) == 1  # <s> knows nothing of the words
    # a text with other classes: as many, and fewer
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "work/data/mine", other)
    predict = ["predict", str(run / "model.pt"), "--data", str(other), "--cpu", "--out"]
    (other / "label" / "classes.txt").write_text("good\nbad\n")
    with pytest.raises(UserError, match=r"has other classes than .*mine, with which"):
        cli.main([*predict, str(tmp_path / "no.tsv")])
    (other / "label" / "dict.txt").write_text("0 600\n")
    with pytest.raises(UserError, match=r"1 classes, and .* tells 2 apart; prepare it as --test"):
        cli.main([*predict, str(tmp_path / "no.tsv")])
    assert not (tmp_path / "no.tsv").exists()


def test_metrics_are_scikit_learns():
    from fairseq_mem.runs.sentence import scores_of

    generator = random.Random(1)
    targets, predictions = (generator.choices("01", k=50) for _ in range(2))
    found = scores_of(["F1", "Matthews"], targets, predictions)
    numbers = [list(map(int, column)) for column in (targets, predictions)]
    assert found["F1"]["value"] == pytest.approx(100 * f1_score(*numbers))
    assert found["Matthews"]["value"] == pytest.approx(100 * matthews_corrcoef(*numbers))


# Reading


@pytest.mark.parametrize(
    ("task", "train", "expected"),
    [
        ("CoLA", "gj04\t1\t\tOur friends go.\n", ("1", "Our friends go.")),
        ("SST-2", 'sentence\tlabel\na "quoted film\t0\n', ("0", 'a "quoted film')),
        (
            "STS-B",
            "index\tsentence1\tsentence2\tscore\n0\tA plane.\tAn air plane.\t5.000\n",
            ("5.000", "A plane.", "An air plane."),
        ),
        (
            "MNLI",
            "index\tsentence1\tsentence2\tgold_label\n0\tx\ty\t-\n1\ta\tb\tneutral\n",
            ("neutral", "a", "b"),
        ),
        (
            "QQP",
            "id\tquestion1\tquestion2\tis_duplicate\n0\tcut\n1\ta?\tb?\t0\n",
            ("0", "a?", "b?"),
        ),
    ],
)
def test_glues_own_files_are_read(glue, tmp_path, task, train, expected):
    about = glue.TASKS[task]
    with zipfile.ZipFile(tmp_path / about.archive, "w") as archive:
        for name in ("train.tsv", about.dev):
            archive.writestr(f"{task}/{name}", train)
    splits = glue.glue_task(tmp_path, task)
    assert splits == {split: [expected] for split in ("train", "valid", "test")}


def test_mrpc_is_split_by_its_list(glue, tmp_path):
    (tmp_path / "mrpc_dev_ids.tsv").write_text("3\t4\n")
    heading = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    lines = "1\t1\t2\tone\ttwo\n0\t3\t4\tthree\tfour\n"
    (tmp_path / "msr_paraphrase_train.txt").write_text(heading + lines, encoding="utf-8")
    splits = glue.glue_task(tmp_path, "MRPC")
    assert splits["train"] == [("1", "one", "two")]
    assert splits["valid"] == splits["test"] == [("0", "three", "four")]


def test_rows_are_sorted_by_length_but_those_of_the_test(glue, tmp_path):
    """Targets and both texts of a row stay together; predictions are in the test set's order."""
    (tmp_path / "dict.txt").write_text("a 1\n")
    rows = [("3", "a a a", "a"), ("1", "a", "a"), ("5", "a a", "a a a"), ("2", "a", "a a")]
    for regression in (True, False):
        splits = {name: list(rows) for name in ("train", "valid", "test")}
        out = tmp_path / f"{regression}"
        glue.write_data(splits, tmp_path, out, 64, regression)
        for name in ("train", "valid"):
            text = (out / "text" / f"{name}.tsv").read_text()
            assert [line[0] for line in text.splitlines()] == ["1", "2", "3", "5"]
        assert (out / "text/test.tsv").read_text()[0] == "3"
    for name, expected in (("valid", ["1", "2", "3", "5"]), ("test", ["3", "1", "5", "2"])):
        assert (tmp_path / f"True/label/{name}.label").read_text().split() == expected


def test_what_is_not_given_is_split_off(glue, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\n" + "".join(f"text {n}\t{n % 2}\n" for n in range(300)))
    splits = glue.own_task({"train": path, "valid": None, "test": None}, False)
    assert sum(map(len, splits.values())) == 300
    assert 10 < len(splits["valid"]) < 60 and 10 < len(splits["test"]) < 60
    assert not set(splits["train"]) & set(splits["test"])


def test_no_row_of_your_own_text_is_left_out(glue, tmp_path):
    """Classes may have any name; a row that lacks something is an error."""
    path = tmp_path / "train.tsv"
    files = {"train": path, "valid": path, "test": path}
    path.write_text("sentence\tlabel\n" + "".join(f"text {n}\t{'+-0'[n % 3]}\n" for n in range(9)))
    assert [row[0] for row in glue.own_task(files, False)["train"]] == [*"+-0+-0+-0"]
    for rows, said in (("a\tb\t1\na\n", "line 3 of .* has 1 columns"),
                       ("a\tb\t1\na\t \t1\n", "line 3 of .* nothing in the column 'sentence2'"),
                       ("a\tb\t\n", "line 2 of .* nothing in the column 'label'")):  # fmt: skip
        path.write_text("sentence1\tsentence2\tlabel\n" + rows)
        with pytest.raises(TextError, match=said):
            glue.own_task(files, False)


def test_the_longer_text_of_a_pair_is_cut_first(glue, tmp_path):
    (tmp_path / "dict.txt").write_text("a 1\nb 1\n")
    first, second = glue.Pieces(tmp_path).numbers(("a a a a a a a", "b b"), 8)
    assert (len(first), len(second)) == (4, 3)  # </s> of each, and <s> in front: 8


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("label\ttext\n1\ta\n", "has no column 'sentence1'"),
        ("label\tsentence\n1\ta\n1\tb\n", "1 classes"),
        ("score\tsentence\nhigh\ta\n", "is no number"),
        ("score\tsentence\nnan\ta\n", "is no number"),
    ],
)
def test_what_makes_no_sense_is_told(glue, tmp_path, rows, message):
    (tmp_path / "dict.txt").write_text("a 1\n")
    (tmp_path / "mine.tsv").write_text(rows)
    words = [word for split in ("train", "valid", "test")
             for word in (f"--{split}", f"{tmp_path}/mine.tsv")]  # fmt: skip
    words = [str(tmp_path), f"{tmp_path}/out", "--model", str(tmp_path), "--task", "mine", *words]
    with pytest.raises(TextError, match=message):
        glue.main(glue.parse(words))
    assert not (tmp_path / "out").exists()


def test_data_that_makes_no_sense_is_told_in_a_line(tmp_path):
    (tmp_path / "mine.tsv").write_text("label\tsentence\n1\ta\n")
    done = script("prepare.sh", "--task", "mine", "--train", tmp_path / "mine.tsv", check=False,
                  MODEL=tmp_path, WORK=tmp_path / "work")  # fmt: skip
    assert done.returncode == 1 and "has no dict.txt" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "work/data/mine").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare.sh"], "give a task"),
        (["prepare.sh", "WNLI"], "there is no task WNLI"),
        (["prepare.sh", "--task", "mine"], "give --train FILE"),
        (["prepare.sh", "--task", "mine", "--train", "nowhere.tsv"], "there is no file"),
        (["run.sh", "RTE", "baseline", "1"], "is no data of prepare.sh"),
        (["table.sh", "--jobs", "0"], "whole number above 0"),
        (["table.sh"], "holds no prepared task"),
        (["vader.sh", "--device", "tpu"], "give cpu or cuda"),
    ],
)
def test_scripts_refuse_in_a_line(tmp_path, words, message):
    done = script(*words, check=False, DATA=tmp_path, WORK=tmp_path)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1], done.stderr


def test_pairs_are_neighbours_or_of_two_documents(tmp_path):
    """As many of each; no line of a document is its own neighbour's stranger."""
    documents = [[f"{name}{number}\twords" for number in range(8)] for name in "abc"]
    (tmp_path / "text").write_text("\n\n".join("\n".join(one) for one in documents))
    for out, rows in (("all.tsv", 100), ("seven.tsv", 7)):
        subprocess.run([sys.executable, GLUE / "pairs.py", tmp_path / "text", tmp_path / out,
                        "--rows", str(rows)], check=True)  # fmt: skip
    heading, *made = (line.split("\t") for line in (tmp_path / "all.tsv").read_text().splitlines())
    assert heading == ["sentence1", "sentence2", "label"]
    assert len({first for first, _, _ in made}) == len(made) == 20  # of 21 neighbours
    assert [label for *_, label in made].count("1") == 10
    for first, second, label in made:
        follows = first[0] == second[0] and int(second[1]) == int(first[1]) + 1
        assert follows == (label == "1") and (first[0] == second[0]) == follows
    assert len((tmp_path / "seven.tsv").read_text().splitlines()) == 7  # heading, three of each


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        *((text, 8, "empty line behind each document") for text in ("a\nb\nc\n", "a\n\nb\n", "")),
        ("a\nb\n\nc\nd\n", 1, "give at least 2"),
    ],
)
def test_no_pairs_are_made_without_documents_or_of_one_kind_alone(tmp_path, text, rows, message):
    (tmp_path / "text").write_text(text)
    done = subprocess.run(
        [sys.executable, GLUE / "pairs.py", tmp_path / "text", tmp_path / "out.tsv",
         "--rows", str(rows)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out.tsv").exists()


# The study


@pytest.fixture(scope="module")
def vader():
    from examples.glue import vader

    return vader


def test_vaders_sets_are_split_by_document(vader, tmp_path):
    import tarfile

    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as packed:
        for name, source in vader.SETS.items():
            rows = "".join(
                f"{doc}_{n}\t{doc % 3 - 1}\tText {doc} {n} of {name}\r\n"
                for doc in range(60) for n in range(2)
            ) + "0_9\t1\ttext 0 0 OF " + name + "\r\n"  # fmt: skip
            entry = tarfile.TarInfo(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            entry.size = len(rows)
            packed.addfile(entry, io.BytesIO(rows.encode()))
    with tarfile.open(tmp_path / vader.SDIST, "w:gz") as packed:
        entry = tarfile.TarInfo(vader.INNER)
        entry.size = len(inner.getvalue())
        packed.addfile(entry, io.BytesIO(inner.getvalue()))
    vader.write_sets(tmp_path / vader.SDIST, tmp_path / "sets")
    documents = {}
    for split in vader.SPLITS:
        heading, *rows = (tmp_path / f"sets/amazon/{split}.tsv").read_text().splitlines()
        assert heading == "score\tsentence" and rows
        documents[split] = {row.split()[2] for row in rows}
    assert not documents["train"] & documents["test"]
    movie = (tmp_path / "sets/movie/train.tsv").read_text().splitlines()
    assert {row.split("\t")[0] for row in movie[1:]} == {"0", "1"}
    done = [len((tmp_path / f"sets/nyt/{split}.tsv").read_text().splitlines()) - 1
            for split in vader.SPLITS]  # fmt: skip
    assert sum(done) == 120  # a sentence that is there already counts once


def test_the_cells_of_the_study_are_all_different():
    cells = script("vader.sh", "--print-cells").stdout.splitlines()
    assert len(cells) == len(set(cells)) > 300
    assert cells[0] == "movie baseline 1"
