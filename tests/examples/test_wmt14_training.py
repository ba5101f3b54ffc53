"""run.sh, table.sh and extension.sh: cells that are trained once, resumed, and never made up."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.commands import HANGS, ROOT, programs, python, run
from sacrebleu.metrics import BLEU

EXAMPLE = ROOT / "examples" / "wmt14_de_en"

WORDS = "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data folder as prepare.sh leaves it: data-bin, and the raw text beside it."""
    work = tmp_path_factory.mktemp("work")
    (work / "raw").mkdir()
    for split, first, count in (("train", 0, 200), ("valid", 200, 10), ("test", 210, 10)):
        for language, words in (("de", WORDS), ("en", NUMBERS)):
            lines = [
                " ".join(words[(i * 7 + j * (i % 5 + 1)) % 12] for j in range(3 + i % 4)) + f" {i}."
                for i in range(first, first + count)
            ]
            (work / "raw" / f"{split}.{language}").write_text("\n".join(lines) + "\n", "utf-8")
    splits = [word for s in ("train", "valid", "test") for word in (f"--{s}", work / "raw" / s)]
    subprocess.run(
        [ROOT / "preprocess.sh", "-s", "de", "-t", "en", "--out", work / "data-bin", "--bpe", "50",
         "--workers", "1", *splits],
        check=True, capture_output=True, env={**os.environ, "PYTHON": python()},
    )  # fmt: skip
    return work / "data-bin"


def script(name: str, *arguments: object, check: bool = True, **variables: object):
    """Run a script of the example in this environment, on the CPU, with a tiny model."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GPUS": "0", "SIZE": "trial"}
    environment |= {"VENV": "none", "PATH": programs()}
    environment |= {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        [EXAMPLE / name, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{name} {arguments}\n{done.stdout}\n{done.stderr}")
    return done


def commands_of(done) -> dict[str, list[str]]:
    """The words of the commands that were shown, by program."""
    lines = [shlex.split(line[2:]) for line in done.stdout.splitlines() if line[:2] == "+ "]
    return {words[0]: words for words in lines}


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize(
    ("model", "arch", "tokens"),
    [
        ("mem-5", "mem_transformer", "5"),
        ("mem-ctrl-20", "mem_ctrl_transformer", "20"),
        ("mem-ctrl-shared-20", "mem_ctrl_shared_transformer", "20"),
        ("mem-bottleneck-10", "mem_bottleneck_transformer", "10"),
    ],
)
def test_models_differ_from_the_baseline_in_memory_alone(data, model, arch, tokens):
    shown = {
        name: commands_of(script("run.sh", name, 1, DATA=data, SIZE="base", DRY_RUN=1))
        for name in (model, "baseline")
    }
    ours, theirs = (shown[name]["fairseq-train"] for name in (model, "baseline"))
    assert value_of(ours, "--arch") == arch and value_of(ours, "--memory-tokens") == tokens
    at = ours.index("--memory-tokens")
    same = [word.replace(arch, "transformer") for word in ours[:at] + ours[at + 2 :]]
    assert [word.replace(f"/{model}/", "/baseline/") for word in same] == theirs
    assert "average" in shown[model]["fairseq-mem"]
    assert value_of(shown[model]["fairseq-generate"], "--lenpen") == "0.6"


def test_an_update_has_as_many_tokens_on_any_number_of_gpus(data):
    for gpus in (1, 2, 8):
        words = commands_of(
            script("run.sh", "mem-20", 1, DATA=data, SIZE="base", GPUS=gpus, DRY_RUN=1)
        )["fairseq-train"]
        tokens = int(value_of(words, "--max-tokens")) * int(value_of(words, "--update-freq"))
        assert tokens * gpus == 32768
        assert "--fp16" in words and "--cpu" not in words
        assert value_of(words, "--distributed-world-size") == str(gpus)


def test_a_launcher_gets_the_path_of_the_program(data):
    shown = script(
        "run.sh", "mem-20", 1, DATA=data, GPUS=16, LAUNCHER="torchrun --nnodes 2", DRY_RUN=1
    ).stdout
    words = shlex.split(shown.splitlines()[0])
    assert words[:4] == ["+", "torchrun", "--nnodes", "2"]
    assert Path(words[4]).name == "fairseq-train" and Path(words[4]).is_file()
    assert "--distributed-world-size" not in words
    done = script("run.sh", "mem-20", 1, check=False, DATA=data, GPUS="", LAUNCHER="srun")
    assert done.returncode == 1 and "LAUNCHER without GPUS" in done.stderr


@pytest.mark.cli
def test_torchrun_starts_the_recipes_own_command(data, tmp_path, monkeypatch):
    """Its line for two GPUs, as two processes of the CPU, trains one model.

    fairseq reads the launcher's variables only where it counts several GPUs: it is told two.
    Its usual --ddp-backend gives torch their numbers, which a model on the CPU does not fit.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "from torch import cuda\n"
        "cuda.device_count, cuda.set_device = lambda: 2, lambda device: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    asked = {"DATA": data, "RUNS": tmp_path, "UPDATES": 2, "MAX_TOKENS": 300, "BATCH": 600}
    asked["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # what torchrun starts
    launcher = "torchrun --standalone --nproc-per-node 2"
    shown = script("run.sh", "mem-2", 1, GPUS=2, LAUNCHER=launcher, DRY_RUN=1, **asked)
    words = [word for word in commands_of(shown)["torchrun"] if word != "--fp16"]
    on_cpu = ["--cpu", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    done = run(*words, *on_cpu, cwd=ROOT, timeout=HANGS)
    assert "training on 2 devices" in done.stdout and "done training" in done.stdout
    saved = max((tmp_path / "trial/mem-2/seed-1").glob("checkpoint*.pt"))
    state = torch.load(saved, weights_only=False)
    assert state["cfg"]["distributed_training"]["distributed_init_method"] == "env://"
    assert state["optimizer_history"][-1]["num_updates"] == 2


def test_data_of_fairseq_preprocess(data, tmp_path):
    """Without preprocess.sh, with two dictionaries and another BPE."""
    bare = tmp_path / "other"
    shutil.copytree(data, bare)
    (bare / "settings.txt").unlink()
    with (bare / "dict.en.txt").open("a") as dictionary:
        dictionary.write("more 1\n")
    asked = {"DATA": bare, "REFERENCE": data.parent / "raw/test.en", "RUNS": tmp_path / "runs"}
    shown = commands_of(
        script(
            "run.sh", "mem-2", 1, DRY_RUN=1, REMOVE_BPE="sentencepiece", TOKENIZER="none", **asked
        )
    )
    assert "--share-decoder-input-output-embed" in shown["fairseq-train"]
    assert "--share-all-embeddings" not in shown["fairseq-train"]
    generate = shown["fairseq-generate"]
    assert value_of(generate, "--remove-bpe") == "sentencepiece" and "--tokenizer" not in generate
    assert (value_of(generate, "--source-lang"), value_of(generate, "--target-lang")) == (
        "de",
        "en",
    )

    # Known before hours of training, not after.
    short = tmp_path / "short.en"
    short.write_text("one\n")
    done = script("run.sh", "mem-2", 1, check=False, **{**asked, "REFERENCE": short})
    assert done.returncode == 1 and "has 1 lines for the 10 sentences" in done.stderr
    assert "fairseq-train" not in done.stdout
    settings = json.loads((tmp_path / "runs/trial/mem-2/seed-1/settings.json").read_text())
    assert settings["data"] == "other"


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("mem-x", 1), {}, "there is no model mem-x"),
        (("mem-10", "one"), {}, "seed one: give a whole number"),
        (("mem-10",), {}, "give a model and a seed"),
        (("mem-10-only", 1), {}, "set START"),
        (("mem-10", 1), {"SIZE": "huge"}, "SIZE=huge: give base, small, iwslt or trial"),
        (("mem-10", 1), {"UPDATES": "501"}, "UPDATES=501: give a multiple of 400"),
        (("mem-10", 1), {"START": "nowhere.pt"}, "no such checkpoint"),
        (("mem-10", 1), {"REFERENCE": "nowhere.en"}, "set REFERENCE"),
        (("mem-10", 1), {"DATA": "nowhere"}, "set DATA"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, arguments, variables, message):
    done = script("run.sh", *arguments, check=False, **{"DATA": data, "DRY_RUN": 1, **variables})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr


@pytest.mark.cli
def test_a_table_is_trained_once_and_extended(data, tmp_path):
    runs = tmp_path / "runs"
    asked = {"DATA": data, "RUNS": runs, "UPDATES": 6, "DATA_NAME": "numbers"}
    table = ("table.sh", "--models", "baseline", "mem-2", "--seeds", 1, "--sizes", "trial")
    done = script(*table, "--jobs", 2, **asked)
    result = json.loads((runs / "trial" / "mem-2" / "seed-1" / "result.json").read_text())
    assert result["memory_tokens"] == 2 and result["updates"] == 6 and result["data"] == "numbers"
    baseline = json.loads((runs / "trial" / "baseline" / "seed-1" / "result.json").read_text())
    assert result["parameters"] - baseline["parameters"] == 2 * 128
    assert set(result["metrics"]) >= {"BLEU", "chrF", "test loss", "valid loss"}
    losses = [result["metrics"][name]["value"] for name in ("test loss", "valid loss")]
    assert min(losses) > 1  # bits a token, of a model that knows little
    assert len((runs / "trial/mem-2/seed-1/hypotheses.txt").read_text("utf-8").splitlines()) == 10
    assert "MemTransformer 2" in (runs / "report" / "report.md").read_text("utf-8"), done.stdout
    texts = [
        (runs / "trial/mem-2/seed-1" / name).read_text("utf-8").splitlines()
        for name in ("hypotheses.txt", "reference.txt")
    ]
    exact = BLEU().corpus_score(texts[0], [texts[1]]).score
    assert result["metrics"]["BLEU"]["value"] == pytest.approx(exact, abs=1e-5)

    # Nothing twice: the trained models are not touched.
    before = (runs / "trial" / "mem-2" / "seed-1" / "model.pt").stat().st_mtime_ns
    again = script(*table, **asked)
    assert "fairseq-train" not in again.stdout
    assert (runs / "trial" / "mem-2" / "seed-1" / "model.pt").stat().st_mtime_ns == before

    # A run of other settings is not taken for this one.
    other = script(*table, check=False, **{**asked, "UPDATES": 7})
    assert other.returncode == 1 and "updates 6, not 7" in other.stderr

    # The baseline gets memory, beside itself without.
    script("extension.sh", 1, TOKENS=3, **{**asked, "UPDATES": 4})
    folder = runs / "trial-extension"
    only = json.loads((folder / "mem-3-only" / "seed-1" / "result.json").read_text())
    assert only["trained_parameters"] == 3 * 128 and only["updates"] == 4
    start = runs / "trial" / "baseline" / "seed-1" / "model.pt"
    for model in ("baseline", "mem-3", "mem-3-only"):
        commands = (folder / model / "seed-1" / "commands.txt").read_text()
        assert f"--finetune-from-model {start}" in commands
    told = (folder / "report" / "report.md").read_text("utf-8")
    assert "memory only" in told and "## numbers, trial, 6 updates" in told


@pytest.mark.cli
def test_training_continues_where_it_stopped(data, tmp_path):
    """An extension begins with the baseline's weights, and goes on from its own checkpoint."""
    runs = tmp_path / "runs"
    # So few tokens that no epoch ends within four updates: there fairseq names them otherwise.
    asked = {"DATA": data, "RUNS": runs, "UPDATES": 4, "MAX_TOKENS": 300, "BATCH": 300}
    folder = runs / "trial-extension" / "mem-2" / "seed-1"
    script("run.sh", "baseline", 1, **{**asked, "UPDATES": 2})
    asked["START"] = runs / "trial" / "baseline" / "seed-1" / "model.pt"
    failed = script("run.sh", "mem-2", 1, check=False, TRAIN_FLAGS="--lr-scheduler none", **asked)
    assert failed.returncode == 1 and "fairseq-train failed" in failed.stderr
    assert "fairseq-train failed" in (folder / "failed.txt").read_text()
    assert not (folder / "result.json").exists()

    shutil.rmtree(folder)
    folder.mkdir(parents=True)
    # A checkpoint of update 2, as an interruption leaves it, and one that was cut short.
    words = commands_of(script("run.sh", "mem-2", 1, DRY_RUN=1, **asked))["fairseq-train"]
    words[words.index("--save-interval-updates") + 1] = "2"
    words[words.index("--max-update") + 1] = "2"
    run("fairseq-train", *words[1:], cwd=ROOT)
    (folder / "checkpoint_1_3.pt").write_bytes((folder / "checkpoint_1_2.pt").read_bytes()[:1000])
    shown = script("run.sh", "mem-2", 1, DRY_RUN=1, **asked)  # what another node must be told
    assert "checkpoint_1_2.pt" in value_of(commands_of(shown)["fairseq-train"], "--restore-file")
    # Killed without a chance to write how long it took.
    began = int(folder.stat().st_mtime) - 1000
    (folder / "began.train").write_text(f"{began}\n")
    done = script("run.sh", "mem-2", 1, **asked)
    most = time.time() - began + 1
    assert "checkpoint_1_2.pt" in done.stdout and "checkpoint_1_3.pt is damaged" in done.stderr
    assert "--finetune-from-model" not in done.stdout
    log = (folder / "train.log").read_text()
    assert "@ 2 updates" in log
    result = json.loads((folder / "result.json").read_text())
    assert 1000 <= result["wall_seconds"] <= most and not (folder / "failed.txt").exists()


@pytest.mark.cli
def test_a_signal_stops_all_cells_at_once(data, tmp_path):
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "GPUS": "0", "VENV": "none", "DATA": str(data),
        "RUNS": str(tmp_path / "runs"), "UPDATES": "400000",
        "PATH": programs(),
    }  # fmt: skip
    table = [EXAMPLE / "table.sh", "--sizes", "trial", "--models", "mem-2", "--seeds", "1"]
    running = subprocess.Popen(
        table, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = tmp_path / "runs/trial/mem-2/seed-1/train.log"
    while not (log.exists() and "begin training epoch" in log.read_text(errors="replace")):
        assert running.poll() is None
        time.sleep(0.2)
    running.terminate()
    told, _ = running.communicate(timeout=HANGS)  # it would train for hours
    assert running.returncode == 130 and "stopped; run it again to continue" in told
    commands = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True).stdout
    assert str(log.parent) not in commands
    assert (log.parent / "seconds.train").exists() and not (log.parent / "began.train").exists()
