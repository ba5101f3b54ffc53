"""`fairseq-mem lesion`: its numbers are those of fairseq's own commands; it resumes."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
from statistics import fmean, stdev

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from helpers.commands import EVERY_SENTENCE, MEMORY, ROOT, fairseq, train
from helpers.commands import run as run_command
from sacrebleu.metrics import BLEU

import fairseq_mem
from fairseq_mem.tools import cli
from fairseq_mem.tools.lesion.evaluation import Evaluation
from fairseq_mem.tools.lesion.settings import LESIONS, Setting, plan

pytestmark = pytest.mark.cli  # needs a trained model

SEARCH = ["--lenpen", "0.6", "--max-len-a", "1.2", "--max-len-b", "10"]  # of lesion.sh
OPTIONS = ["--cpu", *SEARCH, "--batch-size", "5"]


def run(*words):
    return cli.main(["lesion", *map(str, words), *OPTIONS])


def refusal(*words):
    with pytest.raises(fairseq_mem.UserError) as stop:
        run(*words)
    assert "\n" not in str(stop.value)
    return str(stop.value)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A folder with checkpoints of a model that has most words right, far from guessing."""
    folder = tmp_path_factory.mktemp("model")
    train(
        data, folder, *MEMORY, "--max-epoch", "30", "--save-interval", "15", "--max-tokens", "120"
    )
    return folder


@pytest.fixture(scope="module")
def whole(data, model, tmp_path_factory):
    """The command's folder for a model with 4 slots in its encoder and 2 in its decoder."""
    out = tmp_path_factory.mktemp("lesion")
    run(model / "checkpoint30.pt", data, "--out", out)
    return out


@pytest.fixture
def copy(whole, tmp_path):
    """The same, free to be changed."""
    return shutil.copytree(whole, tmp_path / "copy")


def results(out):
    (folder,) = (out / "results").iterdir()
    return folder


def rows(out):
    with (out / "lesion.csv").open(newline="") as file:
        return {(row["slots"], row["lesion"], row["scope"]): row for row in csv.DictReader(file)}


def evaluated(monkeypatch):
    """Notes which settings are evaluated from here on."""
    done, evaluate = [], Evaluation.evaluate

    def noting(self, checkpoint, setting, title):
        done.append(setting.name)
        return evaluate(self, checkpoint, setting, title)

    monkeypatch.setattr(Evaluation, "evaluate", noting)
    return done


def test_every_setting_is_there(whole):
    scopes = ("encoder", "cross", "decoder", "all")
    expected = [("4", "none", ""), ("2", "none", ""), ("0", "none", "")]
    expected += [("4", kind, scope) for kind in ("no-read", "zero-read") for scope in scopes]
    found = rows(whole)
    assert list(found) == expected
    assert len({row["loss"] for row in found.values()}) == len(found)  # each does something else
    assert (whole / "lesion.png").read_bytes().startswith(b"\x89PNG")
    told = (whole / "lesion.md").read_text()
    assert "12 sentences of test, beam 4, length penalty 0.6" in told
    assert "| 4 slots (all) |" in told and "| zero-read, cross |" in told
    assert "left out: 5, 10, 20 slots; the model was trained with 4" in told
    assert "nrefs:1|case:mixed" in told and str(whole) not in told


def plain(output, kind):
    """The ``D-`` or ``T-`` lines of ``fairseq-generate``, in order, without score."""
    lines = [line.split("\t") for line in output.splitlines() if line.startswith(f"{kind}-")]
    return [line[-1] for line in sorted(lines, key=lambda line: int(line[0][2:]))]


def test_translations_are_those_of_fairseq_generate(data, model, whole):
    done = fairseq(
        "generate", data, "--path", model / "checkpoint30.pt", "--cpu", *EVERY_SENTENCE,
        "--model-overrides", {"memory_tokens": 2}, "--beam", "4", *SEARCH,
        "--remove-bpe", "--tokenizer", "moses", "--source-lang", "de", "--target-lang", "en",
    )  # fmt: skip
    result = json.loads((results(whole) / "slots-2.json").read_text())
    translations = (results(whole) / "slots-2.txt").read_text().splitlines()
    assert translations == plain(done.stdout, "D") and len(set(translations)) > 5
    bleu = BLEU().corpus_score(translations, [plain(done.stdout, "T")]).score
    assert result["BLEU"] == pytest.approx(bleu, abs=1e-9) and bleu > 1


def test_losses_are_those_of_fairseq_validate(data, model, whole):
    done = fairseq(
        "validate", data, "--path", model / "checkpoint30.pt", "--cpu", *EVERY_SENTENCE,
        "--model-overrides", {"memory_lesion": "no-read", "memory_lesion_scope": "all"},
        "--batch-size", "20", "--task", "translation", "--valid-subset", "test",
    )  # fmt: skip
    (loss,) = re.findall(r"\| nll_loss ([\d.]+)", done.stdout + done.stderr)
    result = json.loads((results(whole) / "no-read-all.json").read_text())
    assert result["loss"] == pytest.approx(float(loss), abs=2e-3)


def test_fairseq_loads_what_average_writes(data, model, tmp_path):
    """Its command and, to compare the numbers, its loader."""
    mean = tmp_path / "mean.pt"
    done = run_command("fairseq-mem", "average", "--last", "2", model, "--out", mean)
    assert done.stdout == f"{mean}: the mean of 2 checkpoints\n"
    assert mean.stat().st_size < (model / "checkpoint30.pt").stat().st_size / 2
    done = fairseq("generate", data, "--path", mean, "--cpu", "--beam", "2", *EVERY_SENTENCE)
    assert len(plain(done.stdout, "H")) == 12
    (loaded,), _, _ = load_model_ensemble_and_task([str(mean)], {"data": str(data)})
    first, second = (torch.load(model / f"checkpoint{n}.pt")["model"] for n in (15, 30))
    assert not torch.equal(first["encoder.memory.weight"], second["encoder.memory.weight"])
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2)


def test_a_second_run_does_nothing_twice(data, model, copy, monkeypatch, capsys):
    done = evaluated(monkeypatch)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    (results(copy) / "zero-read-cross.json").unlink()
    (results(copy) / "slots-0.json").write_text('{"BLEU": 9')
    run(model / "checkpoint30.pt", data, "--out", copy)
    assert sorted(done) == ["slots-0", "zero-read-cross"]
    told = capsys.readouterr().err
    assert "slots-0.json is damaged" in told and told.count("(done before)") == 9
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    for path in before:
        if path.parent == copy or path.suffix == ".txt":
            assert after[path] == before[path], path.name


def test_stopped_and_continued(data, model, whole, tmp_path, monkeypatch):
    evaluate, done = Evaluation.evaluate, []

    def stopped(self, checkpoint, setting, title):
        done.append(setting.name)
        if len(done) == 3:
            raise KeyboardInterrupt
        return evaluate(self, checkpoint, setting, title)

    monkeypatch.setattr(Evaluation, "evaluate", stopped)
    arguments = [model / "checkpoint30.pt", data, "--out", tmp_path / "out", "--slots", "1"]
    with pytest.raises(fairseq_mem.UserError, match="stopped"):
        run(*arguments)
    assert not list((tmp_path / "out").glob("*.*"))
    run(*arguments)
    assert done == [
        "slots-4", "slots-1", "no-read-encoder",
        *(f"{kind}-{scope}" for kind in LESIONS
          for scope in ("encoder", "cross", "decoder", "all")),
    ]  # fmt: skip
    ours, theirs = rows(tmp_path / "out"), rows(whole)
    for key in ours.keys() & theirs.keys():
        assert float(ours[key]["loss"]) == pytest.approx(float(theirs[key]["loss"]), abs=1e-5)


def test_results_made_otherwise_are_refused(data, model, copy, tmp_path, monkeypatch):
    done = evaluated(monkeypatch)
    checkpoint = model / "checkpoint30.pt"
    assert "beam 4, not 3" in refusal(checkpoint, data, "--out", copy, "--beam", 3)
    other = shutil.copytree(data, tmp_path / "bin")
    with (other / "test.de-en.en.bin").open("ab") as file:
        file.write(b"\0")
    assert "another data" in refusal(checkpoint, other, "--out", copy)
    reference = tmp_path / "reference"
    reference.write_text("ein Satz\n" * 12)
    assert "reference None, not" in refusal(
        checkpoint, data, "--out", copy, "--reference", reference
    )
    assert not done


def test_several_checkpoints_are_averaged(data, model, copy, whole):
    run(model / "checkpoint15.pt", model / "checkpoint30.pt", data, "--out", copy, "--slots", 0)
    found = rows(copy)["4", "none", ""]
    each = [float(loss) for loss in found["loss_by_checkpoint"].split()]
    assert found["checkpoints"] == "2" and each[0] != each[1]
    assert each[1] == float(rows(whole)["4", "none", ""]["loss"])
    assert float(found["loss"]) == pytest.approx(fmean(each), rel=1e-12)
    assert float(found["loss_standard_deviation"]) == pytest.approx(stdev(each), rel=1e-12)
    told = (copy / "lesion.md").read_text()
    assert (
        "deviations of 2 checkpoints" in told and f"{fmean(each):.3f} ± {stdev(each):.3f}" in told
    )
    assert ("2", "none", "") not in rows(copy)


def test_a_raw_reference_counts(data, model, whole, tmp_path):
    """A reference that says what the model says: 100 BLEU; the loss stays the data's."""
    words = (results(whole) / "slots-4.txt").read_text()
    reference = tmp_path / "reference"
    reference.write_text(words)
    run(
        model / "checkpoint30.pt", data, "--out", tmp_path / "out", "--reference", reference,
        "--slots", 4,
    )  # fmt: skip
    found = rows(tmp_path / "out")["4", "none", ""]
    assert float(found["BLEU"]) == pytest.approx(100)
    assert float(found["loss"]) == pytest.approx(float(rows(whole)["4", "none", ""]["loss"]))
    # A file of Windows, and other things that Python takes for the end of a line.
    lines = words.split("\n")[:-1]
    odd = ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"]
    lines[:6] = [line.replace(" ", space, 1) for line, space in zip(lines, odd)]
    assert lines != words.split("\n")[:-1]
    reference.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    run(
        model / "checkpoint30.pt", data, "--out", tmp_path / "odd", "--reference", reference,
        "--slots", 4,
    )  # fmt: skip
    assert float(rows(tmp_path / "odd")["4", "none", ""]["BLEU"]) == pytest.approx(100)
    reference.write_bytes(words.encode().replace(b"\n", b"\n\xe4", 1))
    message = refusal(
        model / "checkpoint30.pt", data, "--out", tmp_path / "latin", "--reference", reference
    )
    assert "line 2 of reference: not valid UTF-8 (byte 0xe4)" in message and "iconv" in message
    reference.write_text(words + "one more\n")
    message = refusal(
        model / "checkpoint30.pt", data, "--out", tmp_path / "new", "--reference", reference
    )
    assert "13 lines" in message and "12 sentences" in message


def test_what_makes_no_sense_is_refused(data, model, tmp_path):
    checkpoint, out = model / "checkpoint30.pt", tmp_path / "out"
    message = refusal(checkpoint, data, "--out", out, "--slots", 2, 5, 20)
    assert "4 memory tokens" in message and "no 5, 20" in message
    assert "there is no reference" in refusal(
        checkpoint, data, "--out", out, "--reference", tmp_path / "none"
    )
    assert "no test in" in refusal(checkpoint, tmp_path, "--out", out)
    assert "no dev in" in refusal(checkpoint, data, "--out", out, "--gen-subset", "dev")
    assert "holds the same" in refusal(checkpoint, model / "checkpoint_last.pt", data, "--out", out)
    assert "there is no checkpoint" in refusal(tmp_path / "none.pt", data, "--out", out)
    if not torch.cuda.is_available():
        assert "--fp16" in refusal(checkpoint, data, "--out", out, "--fp16")

    state = torch.load(checkpoint)
    state["model"]["encoder.memory.weight"] = state["model"]["encoder.memory.weight"][:3]
    torch.save(state, tmp_path / "three.pt")
    message = refusal(checkpoint, tmp_path / "three.pt", data, "--out", out)
    assert "4 + 2" in message and "3 + 2" in message
    for side in ("encoder", "decoder"):
        del state["model"][f"{side}.memory.weight"]
    torch.save(state, tmp_path / "stock.pt")
    assert "no memory tokens" in refusal(tmp_path / "stock.pt", data, "--out", out)
    assert not out.exists()


def test_other_dictionaries_are_refused(data, model, tmp_path):
    other = shutil.copytree(data, tmp_path / "bin")
    for language in ("de", "en"):
        with (other / f"dict.{language}.txt").open("a") as file:
            file.writelines(f"new{number} 1\n" for number in range(9))
    message = refusal(model / "checkpoint30.pt", other, "--out", tmp_path / "out")
    assert "dict.de.txt has " in message and "give the binarised data" in message
    assert not list(tmp_path.glob("out/*.*"))


def test_a_sentence_too_long_is_refused(data, model, tmp_path):
    state = torch.load(model / "checkpoint30.pt")
    state["cfg"]["model"].max_source_positions = 4
    torch.save(state, tmp_path / "short.pt")
    message = refusal(tmp_path / "short.pt", data, "--out", tmp_path / "out", "--slots", 4)
    assert "cannot be used: Size of sample" in message


def test_script_of_the_example(data, model, whole, tmp_path):
    script = ROOT / "examples" / "wmt14_de_en" / "lesion.sh"
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment.pop("DATA", None)

    def script_run(*words, **variables):
        return subprocess.run(
            [script, *map(str, words)], env={**environment, **variables}, cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip

    shutil.copytree(whole, tmp_path / "lesion")
    done = script_run(model / "checkpoint30.pt", "--", "--cpu", "--slots", "2", DATA=str(data))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("(done before)") == 10
    assert done.stdout == "lesion/lesion.md: 10 settings, 1 checkpoints\n"
    for words, variables, complaint in (
        ((), {"DATA": str(data)}, "give the checkpoint"),
        (("x.pt",), {}, "set DATA"),
        (("x.pt", "--cpu"), {"DATA": str(data)}, "unknown option --cpu"),
    ):
        done = script_run(*words, **variables)
        assert done.returncode == 1 and complaint in done.stderr
    assert "usage" in script_run("--help").stdout


@pytest.mark.parametrize("seed", range(5))
def test_plan_is_sorted_and_never_repeats(seed):
    asked = random.Random(seed).choices(range(11), k=6)
    settings, note = plan(10, 0, asked)
    slots = [setting.slots for setting in settings if setting.lesion == "none"]
    assert slots == sorted({10, *asked}, reverse=True) and note == ""
    assert len(set(settings)) == len(settings)


def test_plan_knows_what_the_model_has():
    lesions = [setting for setting in plan(20, 0, None)[0] if setting.lesion != "none"]
    assert [setting.scope for setting in lesions] == ["encoder", "cross", "all"] * 2
    settings, note = plan(0, 3, None)
    assert settings[0] == Setting(0) and "left out" in note
    assert [setting.scope for setting in settings[1:]] == ["decoder", "all"] * 2
    assert plan(20, 0, None)[1] == ""
