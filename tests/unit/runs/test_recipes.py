"""The recipes with commands that only look like fairseq's: order, resuming, what is written."""

import hashlib
import json
import os
import shutil
import zipfile

import pytest

from fairseq_mem.runs import folder, training
from fairseq_mem.runs.__main__ import main
from fairseq_mem.runs.translation import count_lines

LOG = """\
 | INFO | num. shared model params: 1,280 (num. trained: 1,024)
 | INFO | training on 1 devices (GPUs/TPUs)
 | train_inner | epoch 001:  1 / 9 loss=7.25, nll_loss=6, ppl=64.5, wps=1500.5, num_updates=2, lr=1
 | valid on 'valid' subset | loss 7.5 | nll_loss 6.5 | ppl 90.5 | wps 1
"""
LOSSES = "".join(
    f" | valid on '{split}' subset | loss 7.5 | nll_loss 6.5 | ppl 90.5 |\n"
    for split in ("valid", "test")
)
DIVERGED = LOSSES.replace("7.5", "nan")
TRANSLATIONS = "S-1\tein\nD-10\t-1\tc\nD-1\t-1\tb\r b\nH-0\t-1\tno\nD-0\t-0.5\ta\n"
SCORES = json.dumps([
    {"name": name, "score": score, "signature": "nrefs:1"}
    for name, score in (("BLEU", 20.5), ("chrF2", 40.25))
])  # fmt: skip


@pytest.fixture
def recipe(tmp_path, monkeypatch, capsys):
    """Runs a recipe below ``tmp_path``; the commands copy what is in ``tmp_path/said``."""
    said = tmp_path / "said"
    said.mkdir()
    for name, text in (("train", LOG), ("losses", LOSSES), ("D", TRANSLATIONS), ("scores", SCORES)):
        (said / name).write_bytes(text.encode())
    (said / "lm").write_text("Evaluated 1,000 tokens\nLoss (base 2): 5.5000, Perplexity: 45.25\n")
    (said / "predictions.tsv").write_text("target\tprediction\n1\t1\n0\t0\n")
    for updates in (2, 4):
        with zipfile.ZipFile(said / f"checkpoint_1_{updates}.pt", "w") as archive:
            archive.writestr("updates", str(updates))
    (tmp_path / "test.en").write_bytes(b"a\nb\r b\nc")
    (tmp_path / "data").mkdir()
    index = b"MMIDIDX\0\0" + bytes(9) + (3).to_bytes(8, "little")
    (tmp_path / "data/test.de-en.en.idx").write_bytes(index)
    monkeypatch.delenv("DRY_RUN", raising=False)
    run = tmp_path / "run"

    def go(name, *options, **changes):
        commands = {
            "train": f"cat {said}/train; cp {said}/checkpoint*.pt {run}; "
            f"cp {said}/checkpoint_1_4.pt {run}/checkpoint_best.pt",
            "average": f'cat "$@" > {run}/model.pt',
            "validate": f"cat {said}/losses",
            "translate": f"cat {said}/D",
            "score": f"cat {said}/scores",
            "valid": f"cat {said}/lm",
            "test": f"cat {said}/lm",
            "predict": f"cp {said}/predictions.tsv {run}",
        }
        commands |= changes.pop("commands", {})
        words = [name, run, "--updates", 4, "--devices", 1]
        words += ["--data-identity", said / "train", "--dictionaries", said / "lm", said / "D"]
        stages = ["train", "valid", "test"]
        if name == "translation":
            stages = ["train", "average", "validate", "translate", "score"]
            words += ["--data", tmp_path / "data", "--reference", tmp_path / "test.en"]
            words += ["--average", 2]
        elif name == "sentence":
            stages = ["train", "predict"]
            words += ["--metrics", "Pearson", "--drop-model"]
        words += [
            *options,
            "--settings",
            "model=mem-5",
            "size=trial",
            "seed:=1",
            "data=x",
            "updates:=4",
        ]
        for stage in stages:
            words += [":::", stage, "sh", "-c", commands[stage], "sh"]
            words += ["THE LAST 2"] if stage == "average" else []
            if stage == "translate":
                words += ["--source-lang", "de", "--target-lang", "en"]
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return go


def test_a_translation_model(recipe, tmp_path):
    status, out, err = recipe("translation")
    run = tmp_path / "run"
    assert (status, err) == (0, "")
    assert "  mem-5, seed 1: update 2 of 4: loss 7.25, 1500 tokens a second\n" in out
    assert "  mem-5, seed 1: validation loss 7.5, perplexity 90.5\n" in out
    assert out.endswith("run: BLEU 20.5, chrF 40.2\n")
    assert (run / "hypotheses.txt").read_bytes() == b"a\nb\r b\nc\n"
    assert (run / "reference.txt").read_bytes() == (tmp_path / "test.en").read_bytes()
    names = [f"{run}/checkpoint_1_{updates}.pt" for updates in (2, 4)]
    assert " ".join(names) in (run / "commands.txt").read_text()  # oldest first, as averaged
    found = folder.read_run(run, "run")
    assert found.reason == "" and len(found.settings["data_sha256"]) == 16
    words = b"".join((tmp_path / "said" / name).read_bytes() for name in ("lm", "D"))
    assert found.settings["dictionary_sha256"] == hashlib.sha256(words).hexdigest()[:16]
    assert found.result["metrics"]["test NLL (bits a token)"] == {"value": 6.5, "better": "lower"}
    assert (found.result["parameters"], found.result["trained_parameters"]) == (1280, 1024)
    assert len(found.result["commands"]) == 4
    assert recipe("translation") == (0, f"{run} is finished: nothing to do\n", "")


def test_a_language_model(recipe, tmp_path):
    status, out, _ = recipe("language-model")
    assert status == 0 and "valid perplexity 45.25, perplexity 45.25" in out
    result = folder.read_run(tmp_path / "run", "run").result
    assert result["metrics"]["test NLL (bits a word)"]["value"] == 5.5
    assert len(result["commands"]) == 3


@pytest.mark.parametrize(
    ("name", "stage", "command", "reason"),
    [
        (
            "translation",
            "train",
            "echo so; echo no memory; exit 1",
            "fairseq-train failed: no memory",
        ),
        ("translation", "train", "true", "no whole checkpoint of update 4"),
        ("translation", "average", "false", "averaging failed"),
        ("translation", "validate", "echo no such model; exit 1", "sh failed: no such model"),
        ("translation", "validate", "true", "losses.txt tells no loss of test"),
        ("translation", "validate", f'echo "{LOSSES.replace("7.5", "nan")}"', "training diverged"),
        ("translation", "translate", "echo 'D-0\t-1\ta'", "1 translations for 3 references"),
        ("translation", "score", "echo why >&2; exit 1", "sh failed: why"),
        ("language-model", "train", "exit 3", "fairseq-train failed: it said nothing"),
        ("language-model", "test", "echo Evaluated 0 tokens", "test.txt tells no perplexity"),
    ],
)
def test_a_failure_is_told_and_written_down(recipe, tmp_path, name, stage, command, reason):
    status, _, err = recipe(name, commands={stage: command})
    told = (tmp_path / "run/failed.txt").read_text()
    assert status == 1 and reason in told and "see above" not in told
    assert err.splitlines()[-1] == f"run.sh: {told.strip()} (run again to continue)"
    assert not (tmp_path / "run/result.json").exists()


def test_what_failed_is_done_again_and_nothing_else(recipe, tmp_path):
    recipe("translation", commands={"translate": "exit 1"})
    status, out, _ = recipe("translation", commands={"train": "exit 1", "validate": "exit 1"})
    assert status == 0 and "training" not in out and "translating 3 sentences" in out
    assert not (tmp_path / "run/failed.txt").exists()


def test_a_checkpoint_that_was_cut_short_is_not_averaged(recipe, tmp_path):
    (tmp_path / "said/checkpoint_1_2.pt").write_bytes(b"PK")
    status, out, err = recipe("translation")
    assert status == 0 and "checkpoint_1_2.pt is damaged and not used" in err
    assert "only 1 of the last 2 checkpoints are whole; these are averaged" in out + err


def test_a_sentence_encoder_that_was_killed_when_its_training_had_ended(recipe, tmp_path):
    """fairseq would go on from its last checkpoint, past the end."""
    (tmp_path / "run").mkdir()
    for name in ("checkpoint_1_4.pt", "checkpoint_best.pt"):
        shutil.copy(tmp_path / "said/checkpoint_1_4.pt", tmp_path / "run" / name)
    (tmp_path / "run/train.log").write_text(LOG)
    status, out, _ = recipe("sentence", commands={"train": "exit 1"})
    assert status == 0 and "training" not in out


def test_a_finished_sentence_encoder_has_left_nothing(recipe, tmp_path, monkeypatch):
    """Also if it is killed just before: nobody looks at it again."""

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(training, "write_result", full)
    assert recipe("sentence")[0] == 1
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "predictions.tsv" in left
    assert not [name for name in left if name.endswith(".pt")]


def test_before_hours_of_training_the_test_set_is_looked_at(recipe, tmp_path):
    (tmp_path / "test.en").write_text("a\n")
    status, out, err = recipe("translation")
    assert status == 1 and "has 1 lines for the 3 sentences" in err and "+ " not in out
    os.unlink(tmp_path / "data/test.de-en.en.idx")
    status, _, err = recipe("translation")
    assert status == 1 and "has no test set (test.de-en.en.idx)" in err


def test_another_number_of_devices_is_refused(recipe):
    status, _, err = recipe("translation", "--devices", 2)
    assert status == 1 and "was trained on 1 devices, not 2; set GPUS" in err


def test_a_dry_run_shows_where_training_goes_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DRY_RUN", "1")
    status, out, _ = recipe("translation")
    assert status == 0 and not (tmp_path / "run").exists() and out.count("+ sh -c") == 5
    assert "--restore-file" not in out
    (tmp_path / "run").mkdir()
    os.rename(tmp_path / "said/checkpoint_1_2.pt", tmp_path / "run/checkpoint_1_2.pt")
    status, out, _ = recipe("translation")
    assert f"--restore-file {tmp_path}/run/checkpoint_1_2.pt\n" in out
    assert os.listdir(tmp_path / "run") == ["checkpoint_1_2.pt"]


def test_lines_are_counted_as_fairseq_counts_them(tmp_path):
    for text, count in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\r\xe2\x80\xa8b\nc", 2)):
        (tmp_path / "text").write_bytes(text)
        assert count_lines(tmp_path / "text") == count
