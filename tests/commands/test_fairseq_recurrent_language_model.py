"""fairseq's commands with `mem_transformer_xl`: training, resuming, evaluating."""

import math
import random
import re
from types import SimpleNamespace

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from helpers.commands import fairseq, last_line, run, two_workers

from fairseq_mem import UserError

TINY = [
    "--decoder-layers", "2", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "24",
    "--decoder-attention-heads", "2", "--adaptive-softmax-cutoff", "", "--cpu",
    "--task", "streaming_language_modeling", "--tokens-per-sample", "8", "--cache-length", "12",
    "--batch-size", "4", "--optimizer", "adam", "--lr", "0.005", "--seed", "1",
    "--num-workers", "0", "--log-format", "json", "--log-interval", "1",
]  # fmt: skip
RECURRENT = ["--memory-tokens", "3", "--memory-recurrence", "2"]


@pytest.fixture(scope="session")
def streams(tmp_path_factory):
    """Binarised text."""
    folder = tmp_path_factory.mktemp("streams")
    numbers = random.Random(0)
    for split, lines in (("train", 150), ("valid", 30), ("test", 30)):
        rows = [
            " ".join(str(numbers.randrange(9)) for _ in range(numbers.randrange(1, 8)))
            for _ in range(lines)
        ]
        (folder / split).write_text("\n".join(rows) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "--only-source", "--trainpref", folder / "train", "--validpref",
        folder / "valid", "--testpref", folder / "test", "--destdir", folder / "bin",
    )  # fmt: skip
    return folder / "bin"


def train(data, save_dir, *arguments, criterion="cross_entropy", **kwargs):
    return fairseq(
        "train", data, "--arch", "mem_transformer_xl", *TINY, "--criterion", criterion,
        "--save-dir", save_dir, *arguments, **kwargs,
    )  # fmt: skip


def losses(done) -> dict[int, str]:
    """The training loss of every update, as logged."""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "train_inner" in line]
    found = [re.search(r'"loss": "([\d.]+)".*"num_updates": "(\d+)"', line) for line in lines]
    return {int(match[2]): match[1] for match in found}


@pytest.fixture(scope="session")
def model(streams, tmp_path_factory):
    """Ten updates of an epoch, saved (and validated) at 5; and the log."""
    folder = tmp_path_factory.mktemp("xl")
    done = train(streams, folder, *RECURRENT, "--max-update", "10", "--save-interval-updates", "5",
                 "--dropout", "0.2")  # fmt: skip
    return folder, done


@pytest.mark.cli
def test_resuming_in_the_middle_of_an_epoch_gives_identical_losses(streams, model, tmp_path):
    folder, uninterrupted = model
    done = train(
        streams, tmp_path, *RECURRENT, "--max-update", "10", "--save-interval-updates", "5",
        "--dropout", "0.2", "--restore-file", folder / "checkpoint_1_5.pt",
    )  # fmt: skip
    assert "nothing is known" not in done.stdout + done.stderr
    resumed, whole = losses(done), losses(uninterrupted)
    assert resumed.keys() == set(range(6, 11)) and whole.keys() == set(range(1, 11))
    assert resumed == {number: whole[number] for number in resumed}
    first, second = (torch.load(f / "checkpoint_last.pt")["model"] for f in (folder, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.cli
def test_resuming_with_several_batches_an_update(streams, tmp_path):
    """--update-freq 2: the state that is saved stands behind an update's last batch."""
    options = [
        *RECURRENT, "--update-freq", "2", "--batch-size", "2", "--batch-size-valid", "2",
        "--max-update", "5", "--save-interval-updates", "3",
    ]  # fmt: skip
    whole = losses(train(streams, tmp_path / "a", *options))
    done = train(
        streams, tmp_path / "b", *options, "--restore-file", tmp_path / "a/checkpoint_1_3.pt"
    )
    assert "nothing is known" not in done.stdout + done.stderr
    assert losses(done) == {number: whole[number] for number in (4, 5)}


def expected_loss(data, checkpoint, segment: int, **overrides) -> float:
    """Base-2 loss of the test text read as one row, in float32, from the Python side."""
    from fairseq.data import data_utils

    saved = torch.load(checkpoint)
    made = Dictionary.load(str(data / "dict.txt"))
    args = saved["cfg"]["model"]
    for name, value in overrides.items():
        setattr(args, name, value)
    from fairseq.models import ARCH_MODEL_REGISTRY

    task = SimpleNamespace(source_dictionary=made, gives_streams=True)
    read = ARCH_MODEL_REGISTRY["mem_transformer_xl"].build_model(args, task).eval()
    read.load_state_dict(saved["model"])
    sentences = data_utils.load_indexed_dataset(str(data / "test"), made)
    whole = torch.cat([sentence.long() for sentence in sentences])
    before = torch.cat([torch.tensor([made.eos()]), whole[:-1]])
    with torch.no_grad():
        logits = read(before[None], segment=segment)[0][0]
    return float(torch.nn.functional.cross_entropy(logits, whole)) / math.log(2)


def evaluated(done) -> float:
    return float(re.search(r"Loss \(base 2\): ([\d.]+)", done.stdout + done.stderr)[1])


EVALUATE = ["--task", "streaming_language_modeling", "--cpu"]


def eval_lm(data, checkpoint, *arguments) -> float:
    """``fairseq-eval-lm`` in this process; the base-2 loss, not rounded."""
    from fairseq_cli.eval_lm import main

    words = [data, "--path", checkpoint, *EVALUATE, "--gen-subset", "test", *arguments]
    parser = fairseq_options.get_eval_lm_parser()
    args = fairseq_options.parse_args_and_arch(parser, input_args=list(map(str, words)))
    return float(main(convert_namespace_to_omegaconf(args))["loss"])


@pytest.mark.cli
def test_eval_lm_in_a_fresh_process_with_the_options_of_training(streams, model):
    checkpoint = model[0] / "checkpoint_last.pt"
    done = fairseq("eval-lm", streams, "--path", checkpoint, *EVALUATE, "--gen-subset", "test")
    assert evaluated(done) == pytest.approx(expected_loss(streams, checkpoint, 8), abs=2e-4)


@pytest.mark.cli
@pytest.mark.parametrize("segment, overrides", [
    (5, dict(cache_length=20)), (None, dict(tokens_per_sample=3, cache_length=0, memory_tokens=1)),
])  # fmt: skip
def test_eval_lm_with_another_segment_and_cache(streams, model, segment, overrides):
    checkpoint = model[0] / "checkpoint_last.pt"
    chosen = ["--model-overrides", overrides]
    chosen += [] if segment is None else ["--tokens-per-sample", segment]
    expected = expected_loss(streams, checkpoint, segment or 3, **overrides)
    assert eval_lm(streams, checkpoint, *chosen) == pytest.approx(expected, abs=1e-5)
    if segment is None:
        return
    # rows beside each other begin without context: the same words, another loss
    rows = eval_lm(streams, checkpoint, *chosen, "--batch-size", "3")
    assert rows != expected and rows == pytest.approx(expected, abs=0.1)


@pytest.mark.cli
@pytest.mark.slow
def test_validate_reads_the_options_of_training(streams, model):
    checkpoint = model[0] / "checkpoint_last.pt"
    done = fairseq(
        "validate", streams, "--path", checkpoint, *EVALUATE, "--batch-size", "1",
        "--valid-subset", "test", "--log-format", "json",
        "--tokens-per-sample", "5", "--model-overrides", "{'cache_length': 20}",
    )  # fmt: skip
    loss = float(re.search(r'"test_loss": "([\d.]+)"', done.stdout + done.stderr)[1])
    assert loss == pytest.approx(expected_loss(streams, checkpoint, 5, cache_length=20), abs=2e-3)


@pytest.mark.cli
def test_a_bad_option_ends_in_one_clear_line(streams, tmp_path):
    done = train(streams, tmp_path, "--batch-size", "300", check=False)
    assert done.returncode == 1
    assert "tokens, 2 for each of 300 rows" in last_line(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.cli
def test_a_context_window_is_refused_in_one_line(tmp_path):
    """fairseq takes the window off --tokens-per-sample before it asks anybody."""
    done = fairseq(
        "eval-lm", tmp_path, "--path", tmp_path / "model.pt", *EVALUATE, "--context-window", "64",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "'cache_length': 64" in last_line(done)


@pytest.mark.cli
@pytest.mark.parametrize("arguments, said", [
    (["--batch-size-valid", "20"], "the split 'valid'"),
    (["--self-target"], "--self-target asks for words"),
    (["--memory-recurrence", "2", "--memory-tokens", "0"], "nothing to hand on"),
    (["--cache-length", "-1"], "cache_length is -1"),
    (["--task", "language_modeling"], "give --task streaming_language_modeling"),
    (["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"],
     "needs --adaptive-softmax-cutoff"),
    (["--adaptive-softmax-cutoff", "6"], "needs --criterion adaptive_loss"),
])  # fmt: skip
def test_bad_options(streams, tmp_path, monkeypatch, arguments, said):
    from fairseq_cli.train import cli_main

    words = ["fairseq-train", streams, "--arch", "mem_transformer_xl", *TINY, "--criterion",
             "cross_entropy", "--max-update", "1", "--save-dir", tmp_path, *arguments]  # fmt: skip
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    with pytest.raises(UserError) as error:
        cli_main()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.cli
@pytest.mark.slow
def test_two_workers_resume_with_their_own_rows(streams, tmp_path):
    """Each worker's cache is in the checkpoint, and goes back to that worker."""

    def both(folder, *arguments):
        return two_workers(
            train, streams, folder, *RECURRENT, "--max-update", "8",
            "--save-interval-updates", "4", "--batch-size", "3", *arguments,
        )  # fmt: skip

    first = both(tmp_path / "a")
    again = both(tmp_path / "b", "--restore-file", tmp_path / "a/checkpoint_1_4.pt")
    assert not any("nothing is known" in done.stdout + done.stderr for done in again)
    whole, resumed = losses(first[0]), losses(again[0])
    assert resumed and resumed == {number: whole[number] for number in resumed}
    state = torch.load(tmp_path / "a/checkpoint_1_4.pt")["extra_state"]["train_iterator"]
    assert [s["cache"][0].shape for s in state["streams"]] == [(3, 12, 16)] * 2
    assert not torch.equal(*(s["cache"][0] for s in state["streams"]))


@pytest.mark.cli
@pytest.mark.slow
def test_adaptive_softmax_over_two_epochs(streams, tmp_path):
    done = train(
        streams, tmp_path, "--memory-tokens", "2", "--adaptive-softmax-cutoff", "6,10",
        "--ddp-backend", "legacy_ddp", "--max-epoch", "2", criterion="adaptive_loss",
    )  # fmt: skip
    assert "nothing is known" not in done.stdout + done.stderr
    assert eval_lm(streams, tmp_path / "checkpoint_best.pt", "--batch-size", "2") < 5
