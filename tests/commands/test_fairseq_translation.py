"""fairseq's commands with the plugin, as users run them."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.commands import (
    EVERY_SENTENCE,
    MEMORY,
    ROOT,
    SMOOTHED,
    USER_DIR,
    fairseq,
    hypotheses,
    last_line,
    run,
    train,
    two_workers,
)

import fairseq_mem  # noqa: F401  (lets torch.load read fairseq's checkpoints)

pytestmark = pytest.mark.cli

ADAPTIVE = ["adaptive_loss", "--ddp-backend", "legacy_ddp"]


@pytest.fixture(scope="session")
def model(data, tmp_path_factory):
    """A folder with checkpoints of two epochs, memory on both sides, and the training's log."""
    folder = tmp_path_factory.mktemp("model")
    done = train(data, folder, *MEMORY, "--max-epoch", "2")
    (folder / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def stock(data, tmp_path_factory):
    """A checkpoint of fairseq's own ``transformer`` of the same size."""
    folder = tmp_path_factory.mktemp("stock")
    train(data, folder, "--share-all-embeddings", "--max-epoch", "1", arch="transformer")
    return folder / "checkpoint_last.pt"


def generate(data, checkpoint, *arguments, **kwargs):
    return fairseq(
        "generate", data, "--path", checkpoint, "--cpu", "--batch-size", "5", *EVERY_SENTENCE,
        *arguments, **kwargs,
    )  # fmt: skip


@pytest.fixture(scope="session")
def translated(data, model):
    """What ``fairseq-generate`` prints for the test set, beam 4."""
    return hypotheses(generate(data, model / "checkpoint_last.pt", "--beam", "4").stdout)


def test_training_says_what_it_trains(model):
    log = (model / "log").read_text(encoding="utf-8")
    assert "MemoryTokens(4" in log and "MemoryTokens(2" in log
    assert "end of epoch 2" in log


def assert_a_fresh_process_gets_the_same_loss(data, folder, epoch, log):
    trained = re.findall(rf"valid \| epoch 00{epoch} .*?\| nll_loss ([\d.]+)", log)
    done = fairseq(
        "validate", data, "--path", folder / "checkpoint_last.pt", "--cpu", "--batch-size", "20",
        "--task", "translation", "--valid-subset", "valid", *EVERY_SENTENCE,
    )  # fmt: skip
    validated = re.findall(r"\| nll_loss ([\d.]+)", done.stdout + done.stderr)
    assert len(trained) == len(validated) == 1
    assert float(validated[0]) == pytest.approx(float(trained[0]), abs=2e-3)


def test_a_fresh_process_gets_the_loss_that_training_reported(data, model):
    log = (model / "log").read_text(encoding="utf-8")
    assert_a_fresh_process_gets_the_same_loss(data, model, 2, log)


def test_a_fresh_process_gets_the_loss_of_a_model_with_controls(data, tmp_path):
    """A sink and static keys without memory, as they are compared with it."""
    controls = ["--attention-sink", "--memory-static", "3", "--memory-tokens", "0"]
    done = train(
        data, tmp_path, *MEMORY, *controls, "--memory-decoder-tokens", "0", "--max-epoch", "1"
    )
    state = torch.load(tmp_path / "checkpoint_last.pt")["model"]
    sinks = [value for name, value in state.items() if name.endswith(".controls.sink")]
    assert len(sinks) == 6 and all(sink.abs().max() > 0 for sink in sinks)  # they were trained
    assert_a_fresh_process_gets_the_same_loss(data, tmp_path, 1, done.stdout + done.stderr)


def test_generation_does_not_depend_on_the_batch(data, model, translated):
    assert len(translated) == 12
    alone = generate(data, model / "checkpoint_last.pt", "--beam", "4", "--batch-size", "1")
    for batched, single in zip(translated, hypotheses(alone.stdout), strict=True):
        assert batched.split("\t")[2] == single.split("\t")[2]
        assert float(batched.split("\t")[1]) == pytest.approx(
            float(single.split("\t")[1]), abs=1e-4
        )


def test_interactive_translates_raw_lines(data, model, translated):
    lines = (data.parent / "test.de").read_text(encoding="utf-8")
    done = fairseq(
        "interactive", data, "--path", model / "checkpoint_last.pt", "--cpu", "--beam", "4",
        stdin=lines,
    )  # fmt: skip
    told = [line.split("\t")[2] for line in hypotheses(done.stdout)]
    assert told == [line.split("\t")[2] for line in translated]


def test_beam_scores_are_those_of_the_reference_scorer(data, model, translated, tmp_path):
    """``--score-reference`` of the very hypotheses, teacher-forced, gives the beam's scores."""
    for suffix in ("de", "en"):
        shutil.copy(data / f"dict.{suffix}.txt", tmp_path)
    shutil.copy(data.parent / "test.de", tmp_path / "test.de")
    words = [line.split("\t")[2] for line in translated]
    (tmp_path / "test.en").write_text("\n".join(words) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "-s", "de", "-t", "en", "--testpref", tmp_path / "test",
        "--srcdict", tmp_path / "dict.de.txt", "--joined-dictionary", "--destdir",
        tmp_path / "bin",
    )  # fmt: skip
    done = generate(tmp_path / "bin", model / "checkpoint_last.pt", "--score-reference")
    for beam, reference in zip(translated, hypotheses(done.stdout), strict=True):
        assert float(beam.split("\t")[1]) == pytest.approx(
            float(reference.split("\t")[1]), abs=2e-3
        )


def test_alignments_point_at_source_words(data, model):
    done = generate(data, model / "checkpoint_last.pt", "--beam", "2", "--print-alignment", "hard")
    sources = {
        line.split("\t")[0][2:]: len(line.split("\t")[1].split())
        for line in done.stdout.splitlines()
        if line.startswith("S-")
    }
    alignments = [line for line in done.stdout.splitlines() if line.startswith("A-")]
    assert len(alignments) == len(sources) == 12
    for line in alignments:
        name, pairs = line.split("\t")
        for pair in pairs.split():
            assert 0 <= int(pair.split("-")[0]) <= sources[name[2:]]


@pytest.mark.parametrize(
    "options",
    [
        ["--prefix-size", "1"],
        ["--sampling", "--sampling-topk", "3", "--beam", "2", "--nbest", "2"],
        [
            "--diverse-beam-groups",
            "2",
            "--diverse-beam-strength",
            "0.5",
            "--beam",
            "4",
            "--batch-size",
            "12",
        ],
        ["--model-overrides", "{'memory_bf16': True}", "--beam", "4"],
        ["--no-repeat-ngram-size", "1", "--lenpen", "0.6", "--min-len", "12"],
    ],
    ids=lambda options: options[0],
)
def test_options_of_fairseq_generate(data, model, options):
    done = generate(data, model / "checkpoint_last.pt", *options)
    found = hypotheses(done.stdout)
    assert len(found) == 12 * (2 if "--nbest" in options else 1)
    if "--no-repeat-ngram-size" in options:
        for line in found:
            words = line.split("\t")[2].split()
            assert len(set(words)) == len(words) >= 12
    if "--prefix-size" in options:
        targets = [line for line in done.stdout.splitlines() if line.startswith("T-")]
        targets.sort(key=lambda line: int(line.split("\t")[0][2:]))
        for target, hypothesis in zip(targets, found, strict=True):
            assert target.split("\t")[1].split()[0] == hypothesis.split("\t")[2].split()[0]


def test_ensembles_also_with_a_stock_model_and_another_number_of_slots(data, model, stock):
    paths = f"{model / 'checkpoint1.pt'}:{model / 'checkpoint2.pt'}:{stock}"
    done = generate(data, paths, "--beam", "2", "--print-alignment")
    assert len(hypotheses(done.stdout)) == 12


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_fewer_slots_through_model_overrides(data, model, translated, kept):
    done = generate(
        data, model / "checkpoint_last.pt", "--beam", "4", "--model-overrides",
        f"{{'memory_tokens': {kept}, 'memory_decoder_tokens': {min(kept, 2)}}}",
    )  # fmt: skip
    assert (hypotheses(done.stdout) == translated) == (kept == 4)


def test_from_pretrained_translates_and_shows_memory(data, model, translated):
    program = f"""
from fairseq_mem import MemTransformerModel
hub = MemTransformerModel.from_pretrained({str(model)!r}, "checkpoint_last.pt", {str(data)!r})
lines = open({str(data.parent / "test.de")!r}).read().splitlines()
print(hub.translate(lines, beam=4))
one = hub.translate(lines[0], beam=4, return_memory=True)
print([one.text, list(one.memory.shape), bool(one.memory.isfinite().all())])
two = hub.translate(lines[:2], return_memory=True)
long = " ".join([lines[0]] * 40)
kept = hub.translate([long, lines[0]], return_memory=True, skip_invalid_size_inputs=True)
assert len(kept) == 1 and (kept[0].memory - one.memory).abs().max() < 1e-5
assert hub.translate([], return_memory=True) == []
hypothesis = hub.generate([hub.encode(lines[0])], beam=2)[0][0]
assert hypothesis["attention"].shape == (len(hub.encode(lines[0])), len(hypothesis["tokens"]))
print([(two[0].memory - one.memory).abs().max().item() < 1e-5,
       (two[1].memory - one.memory).abs().max().item() > 1e-3])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    texts, one, distinct = map(ast.literal_eval, done.stdout.strip().splitlines()[-3:])
    assert texts == [line.split("\t")[2] for line in translated]
    assert one == [texts[0], [4, 32], True]
    assert distinct == [True, True]


THREE_EPOCHS = [
    *MEMORY, "--update-epoch-batch-itr", "True", "--max-epoch", "3", "--save-interval-updates", "5",
    "--max-tokens", "60", "--update-freq", "2", "--dropout", "0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """A folder with all checkpoints of a training of three epochs of seven updates."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(data, folder, *THREE_EPOCHS)
    return folder


@pytest.mark.parametrize(  # killed behind the first epoch, in the second, in the third
    ("newest", "updates"),
    [("checkpoint1.pt", 7), ("checkpoint_2_10.pt", 10), ("checkpoint_3_15.pt", 15)],
)
def test_a_resumed_training_is_the_uninterrupted_one(
    data, uninterrupted, tmp_path, newest, updates
):
    """Bit for bit, parameters and optimizer; what a kill leaves is its newest checkpoint."""
    shutil.copy(uninterrupted / newest, tmp_path / "checkpoint_last.pt")
    done = train(data, tmp_path, *THREE_EPOCHS)
    assert f"@ {updates} updates" in done.stdout + done.stderr
    resumed, whole = (
        torch.load(folder / "checkpoint_last.pt") for folder in (tmp_path, uninterrupted)
    )
    for checkpoint in (resumed, whole):
        assert checkpoint["optimizer_history"][-1]["num_updates"] == 21
    for part in ("model", "last_optimizer_state"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [["--finetune-from-model"], ["--reset-optimizer", "--reset-dataloader", "--restore-file"]],
    ids=["finetune-from-model", "restore-file"],
)
def test_a_stock_checkpoint_gets_memory_and_trains_on(data, stock, tmp_path, options):
    done = train(data, tmp_path, *MEMORY, "--max-epoch", "2", *options, stock)
    told = done.stdout + done.stderr
    assert told.count("4 memory tokens are freshly initialised") == 1
    assert told.count("2 memory tokens are freshly initialised") == 1
    assert (tmp_path / "checkpoint_last.pt").exists()


def test_memory_only_changes_nothing_else(data, stock, tmp_path):
    train(
        data, tmp_path, *MEMORY, "--memory-only", "--max-epoch", "1", "--finetune-from-model", stock
    )
    before, after = (torch.load(path)["model"] for path in (stock, tmp_path / "checkpoint_last.pt"))
    assert set(after) - set(before) == {"encoder.memory.weight", "decoder.memory.weight"}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_growing_needs_the_flag(data, model, tmp_path):
    options = [*MEMORY, "--memory-tokens", "6", "--max-epoch", "1"]
    start = ["--finetune-from-model", model / "checkpoint_last.pt"]
    done = train(data, tmp_path, *options, *start, check=False)
    assert done.returncode == 1
    assert "has 4 memory tokens in its encoder, 6 were asked for" in last_line(done)
    assert "--memory-grow" in last_line(done)
    assert not list(tmp_path.glob("*.pt"))
    train(data, tmp_path, *options, *start, "--memory-grow")
    state = torch.load(tmp_path / "checkpoint_last.pt")["model"]
    assert state["encoder.memory.weight"].shape == (6, 32)


@pytest.mark.parametrize(
    ("options", "arch", "message"),
    [
        (["--memory-tokens", "-1"], "mem_transformer", "-1 is not between 0 and 4096"),
        (["--memory-tokens", "99999"], "mem_transformer", "99999 is not between 0 and 4096"),
        (["--memory-tokens", "ten"], "mem_transformer", "'ten' is not a whole number"),
        (["--memory-tokens", "4"], "transformer", "transformer has none; choose --arch from: mem"),
        (["--cross-self-attention"], "mem_transformer", "--memory-tokens 0"),
        (["--memory-lesion", "no-read"], "mem_transformer", "a lesion is for inference"),
        (["--memory-tokens", "0"], "mem_ctrl_transformer", "has nothing to train with 0 memory"),
    ],
)
def test_bad_options_end_in_one_clear_line(data, tmp_path, options, arch, message):
    done = train(data, tmp_path / "run", *options, arch=arch, check=False)
    assert done.returncode != 0
    assert message in last_line(done)
    assert not list(tmp_path.glob("run/*.pt"))


@pytest.mark.parametrize(
    "options",
    [
        ["--encoder-learned-pos", "--decoder-learned-pos", "--memory-positions"],
        ["--encoder-normalize-before", "--decoder-normalize-before", "--encoder-layerdrop", "0.2"],
        ["--checkpoint-activations"],
        ["--adaptive-softmax-cutoff", "10,20"],
    ],
    ids=lambda options: options[0],
)
def test_options_of_fairseqs_transformer(data, tmp_path, options):
    adaptive = "--adaptive-softmax-cutoff" in options
    memory = [word for word in MEMORY if not (adaptive and word == "--share-all-embeddings")]
    criterion = ADAPTIVE if adaptive else SMOOTHED
    train(data, tmp_path, *memory, "--max-epoch", "1", *options, criterion=criterion)
    assert len(hypotheses(generate(data, tmp_path / "checkpoint_last.pt").stdout)) == 12


def test_two_processes_train_one_model_and_resume(data, tmp_path):
    """Distributed training without a GPU, as fairseq's documentation does not say how."""
    two_workers(train, data, tmp_path, *MEMORY, "--max-epoch", "1")
    first, _ = two_workers(train, data, tmp_path, *MEMORY, "--max-epoch", "2")
    assert "Loaded checkpoint" in first.stdout + first.stderr  # the second logs nothing
    assert (tmp_path / "checkpoint2.pt").exists()


def test_user_dir_works_from_anywhere(data, model, tmp_path):
    """By absolute path from another folder, and as an installed package."""
    installed = run("fairseq-mem", "user-dir").stdout.strip()
    for user_dir in (USER_DIR, installed):
        done = fairseq(
            "validate", data, "--path", model / "checkpoint_last.pt", "--cpu", "--batch-size", "20",
            "--task", "translation", "--valid-subset", "valid", user_dir=user_dir, cwd=tmp_path,
        )  # fmt: skip
        assert "nll_loss" in done.stdout + done.stderr


@pytest.mark.parametrize("model_name", ["ctrl", "ctrl_shared", "bottleneck"])
def test_the_other_models_train_and_translate_in_a_fresh_process(data, model, tmp_path, model_name):
    """Warm-started from a MemTransformer; then with fewer slots, and lesioned."""
    arch = f"mem_{model_name}_transformer_small"
    start = ["--finetune-from-model", model / "checkpoint_last.pt"]
    done = train(data, tmp_path, *MEMORY, *start, "--max-epoch", "1", arch=arch)
    assert (done.stdout + done.stderr).count("begins as a copy of the encoder's own layers") == 1
    checkpoint = tmp_path / "checkpoint_last.pt"
    state = torch.load(checkpoint)["model"]
    controllers = {k.split(".controller.")[0] for k in state if ".controller." in k}
    homes = {"encoder"} if model_name == "ctrl_shared" else {f"encoder.layers.{n}" for n in (0, 1)}
    assert controllers == homes
    outputs = []
    for overrides in (
        "{}",
        "{'memory_tokens': 0}",
        "{'memory_lesion': 'no-read', 'memory_lesion_scope': 'all'}",
        "{'memory_lesion': 'zero-read'}",
    ):
        outputs.append(
            hypotheses(generate(data, checkpoint, "--model-overrides", overrides).stdout)
        )
        assert len(outputs[-1]) == 12
    assert all(other != outputs[0] for other in outputs[1:])


def test_training_goes_on_with_the_fused_criterion_and_optimizer_and_back(data, model, tmp_path):
    """Checkpoints of fairseq's criterion and optimizer and of ours are exchangeable."""
    shutil.copy(model / "checkpoint1.pt", tmp_path / "checkpoint_last.pt")
    fused = ["label_smoothed_cross_entropy_fused", "--label-smoothing", "0.1"]
    options = [*MEMORY, "--optimizer", "adam_fused", "--max-epoch", "2"]
    done = train(data, tmp_path, *options, criterion=fused)
    assert "begin training epoch 2" in done.stdout + done.stderr
    done = train(data, tmp_path, *MEMORY, "--max-epoch", "3")
    assert "begin training epoch 3" in done.stdout + done.stderr
    assert "begin training epoch 2" not in done.stdout + done.stderr


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_layers_of_one_side_are_left_out_at_inference(data, tmp_path, side):
    """fairseq's pruning leaves the other side without any layer."""
    train(data, tmp_path, *MEMORY, "--encoder-layerdrop", "0.2", "--decoder-layerdrop", "0.2",
          "--max-epoch", "1")  # fmt: skip
    found = [
        hypotheses(generate(data, tmp_path / "checkpoint_last.pt", *more).stdout)
        for more in ([], ["--model-overrides", f"{{'{side}_layers_to_keep': '0'}}"])
    ]
    assert len(found[0]) == len(found[1]) == 12
    assert found[0] != found[1]


def test_guided_alignment(data, tmp_path):
    """``--load-alignments`` and the criterion for it; word i translates word i."""
    for path in data.parent.glob("*.[de][en]"):
        shutil.copy(path, tmp_path)
        if path.suffix == ".de":
            counts = [len(line.split()) for line in path.read_text(encoding="utf-8").splitlines()]
            links = [" ".join(f"{word}-{word}" for word in range(count)) for count in counts]
            (tmp_path / f"{path.stem}.align").write_text("\n".join(links) + "\n")
    run(
        "fairseq-preprocess", "-s", "de", "-t", "en", "--trainpref", tmp_path / "train",
        "--validpref", tmp_path / "valid", "--srcdict", data / "dict.de.txt",
        "--joined-dictionary", "--align-suffix", "align", "--destdir", tmp_path / "bin",
    )  # fmt: skip
    done = train(
        tmp_path / "bin", tmp_path / "model", *MEMORY, "--max-epoch", "2", "--load-alignments",
        criterion=[
            "label_smoothed_cross_entropy_with_alignment", "--label-smoothing", "0.1",
            "--alignment-lambda", "1",
        ],
    )  # fmt: skip
    found = re.findall(r"\| alignment_loss ([\d.]+)", done.stdout + done.stderr)
    assert len(found) >= 2 and all(0 < float(loss) < 20 for loss in found)
