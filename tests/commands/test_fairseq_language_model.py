"""fairseq's commands with `mem_transformer_lm`, as users run them."""

import math
import random
import re

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm
from helpers.commands import EVERY_SENTENCE, TRAIN, fairseq, hypotheses, last_line, run
from helpers.language_models import TINY_LM, WIDTHS, scores

from fairseq_mem import UserError
from fairseq_mem.command_line import check_arguments

# fairseq's commands

cli = pytest.mark.cli
BLOCK = 16
LM = [
    *TINY_LM, *WIDTHS, "--task", "language_modeling", "--tokens-per-sample", BLOCK,
    "--sample-break-mode", "none", *EVERY_SENTENCE,
]  # fmt: skip


@pytest.fixture(scope="session")
def lm_data(tmp_path_factory):
    """Binarised text: counting up from a random number, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("lm")
    numbers = random.Random(0)
    for split, lines in (("train", 150), ("valid", 20), ("test", 9)):
        text = []
        for _ in range(lines):
            first = numbers.randrange(10)
            text.append(" ".join(str((first + n) % 10) for n in range(numbers.randrange(3, 9))))
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "--only-source", "--trainpref", folder / "train.txt",
        "--validpref", folder / "valid.txt", "--testpref", folder / "test.txt",
        "--destdir", folder / "bin",
    )  # fmt: skip
    return folder / "bin"


def train_lm(data, folder, *arguments, arch="mem_transformer_lm", **kwargs):
    return fairseq(
        "train", data, "--arch", arch, *LM, *TRAIN, "--save-dir", folder, *arguments, **kwargs
    )


def perplexity(data, checkpoint, *arguments):
    """The loss (base 2) that fairseq-eval-lm computes, and the perplexity; in this process."""
    words = [*evaluation(data, checkpoint), *map(str, arguments)]
    args = fairseq_options.parse_args_and_arch(fairseq_options.get_eval_lm_parser(), words)
    found = eval_lm.main(convert_namespace_to_omegaconf(args))
    return float(found["loss"]), float(found["perplexity"])


def evaluation(data, checkpoint):
    """The command line."""
    return [
        str(data), "--path", str(checkpoint), "--cpu", "--task", "language_modeling",
        "--tokens-per-sample", str(BLOCK), "--sample-break-mode", "none", "--num-workers", "0",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def lm(lm_data, tmp_path_factory):
    """A trained checkpoint with 4 slots, and the training's log beside it."""
    folder = tmp_path_factory.mktemp("lm-model")
    done = train_lm(
        lm_data, folder, "--memory-tokens", "4", "--max-tokens", "128", "--max-epoch", "4"
    )
    (folder / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder / "checkpoint_last.pt"


def load_lm(checkpoint, data):
    from fairseq.checkpoint_utils import load_model_ensemble

    (model,), _ = load_model_ensemble([str(checkpoint)], {"data": str(data)})
    return model.eval()


def read_test_set(data):
    """The words of the test set as one list of numbers, and its dictionary."""
    words = Dictionary.load(str(data / "dict.txt"))
    lines = (data.parent / "test.txt").read_text(encoding="utf-8").splitlines()
    return [n for line in lines for n in words.encode_line(line, add_if_not_exist=False).tolist()]


@cli
def test_a_fresh_process_gets_the_loss_that_training_reported(lm_data, lm):
    log = (lm.parent / "log").read_text(encoding="utf-8")
    assert "MemoryTokens(4" in log
    trained = float(re.findall(r"valid \| epoch 004 .*?\| loss ([\d.]+)", log)[-1])
    done = fairseq("eval-lm", *evaluation(lm_data, lm), "--gen-subset", "valid")
    validated = float(
        re.findall(r"Loss \(base 2\): ([\d.]+), Perplexity: ", done.stdout + done.stderr)[-1]
    )
    assert validated == pytest.approx(trained, abs=2e-3)
    assert trained < 3  # something was learned: 11 words, 3.3 bits for a guess


@cli
@pytest.mark.parametrize("window", [0, 5])
def test_eval_lm_scores_every_word_once_with_the_context_it_was_promised(lm_data, lm, window):
    """Window by window, by hand: ``window`` words that are not scored, then those that are."""
    model, stream, eos = load_lm(lm, lm_data), read_test_set(lm_data), 2
    read = [eos, *stream[:-1]]  # what stands before each word
    step, total = BLOCK - window, 0.0
    with torch.no_grad():
        for start in range(0, len(stream), step):
            first = max(0, start - window)
            log_probs = scores(model, torch.tensor([read[first : start + step]]))[
                0, start - first :
            ]
            for row, word in zip(log_probs, stream[start : start + step], strict=True):
                total -= row[word].item()
    expected = total / len(stream) / math.log(2)
    flags = ["--context-window", window] if window else []
    found, ppl = perplexity(lm_data, lm, "--batch-size", "3", *flags)
    assert found == pytest.approx(expected, abs=1e-5)
    assert ppl == pytest.approx(2**expected, rel=1e-5)


@cli
def test_fewer_slots_and_lesions_through_model_overrides(lm_data, lm):
    found = [
        perplexity(lm_data, lm, "--model-overrides", str(overrides))[0]
        for overrides in (
            {},
            {"memory_tokens": 4},
            {"memory_tokens": 0},
            {"memory_lesion": "no-read"},
            {"memory_lesion": "zero-read"},
        )
    ]
    assert found[0] == found[1]
    # memory that nobody may read is no memory: it learns nothing of the text, so hides nothing
    assert found[2] == pytest.approx(found[3], abs=1e-5)
    assert len({round(loss, 4) for loss in found}) == 3


@cli
def test_generation_continues_a_prefix_and_its_scores_are_teacher_forced(lm_data, lm):
    common = ["--path", lm, "--cpu", "--task", "language_modeling", "--beam", "3"]
    done = fairseq(
        "generate", lm_data, *common, "--prefix-size", "2", "--max-len-b", "12", *EVERY_SENTENCE,
        "--batch-size", "4", "--sample-break-mode", "eos", "--tokens-per-sample", BLOCK,
    )  # fmt: skip
    found = hypotheses(done.stdout)
    sources = dict(re.findall(r"^T-(\d+)\t(.*)$", done.stdout, re.M))
    assert len(found) == 9
    model, words = load_lm(lm, lm_data), Dictionary.load(str(lm_data / "dict.txt"))
    for line in found:
        name, score, text = line.split("\t")
        assert text.split()[:2] == sources[name[2:]].split()[:2]
        numbers = words.encode_line(text, add_if_not_exist=False).long()
        read = torch.cat([torch.tensor([words.eos()]), numbers[:-1]])[None]
        with torch.no_grad():
            each = scores(model, read)[0].gather(1, numbers[:, None])
        assert float(score) == pytest.approx(each.mean().item() / math.log(2), abs=2e-3)


@cli
def test_interactive_continues_what_is_typed(lm_data, lm):
    done = fairseq(
        "interactive", lm_data, "--path", lm, "--cpu", "--task", "language_modeling",
        "--beam", "2", "--max-len-b", "10", "--buffer-size", "2", stdin="1 2 3\n7\n5 6\n",
    )  # fmt: skip
    found = [line.split("\t")[2] for line in hypotheses(done.stdout)]
    assert [text.startswith(start) for text, start in zip(found, ("1 2 3", "7", "5 6"))] == [
        True
    ] * 3


@cli
@pytest.mark.slow
def test_a_stock_checkpoint_gets_memory_and_trains_on(lm_data, tmp_path):
    train_lm(lm_data, tmp_path / "stock", "--max-epoch", "1", arch="transformer_lm")
    stock = tmp_path / "stock" / "checkpoint_last.pt"
    done = train_lm(
        lm_data, tmp_path / "more", "--memory-tokens", "4", "--memory-only", "--max-epoch", "1",
        "--finetune-from-model", stock,
    )  # fmt: skip
    assert (done.stdout + done.stderr).count("4 memory tokens are freshly initialised") == 1
    before, after = (
        torch.load(path)["model"] for path in (stock, tmp_path / "more/checkpoint_last.pt")
    )
    assert set(after) - set(before) == {"decoder.memory.weight"}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@cli
@pytest.mark.slow
def test_adaptive_input_and_softmax_train_evaluate_and_generate(lm_data, tmp_path):
    cutoffs = ["--adaptive-input-cutoff", "4,8", "--adaptive-softmax-cutoff", "4,8"]
    train_lm(
        lm_data, tmp_path, "--memory-tokens", "4", *cutoffs, "--criterion", "adaptive_loss",
        "--max-epoch", "4", "--max-tokens", "128", "--ddp-backend", "legacy_ddp",
        arch="mem_transformer_lm_wiki103",
    )  # fmt: skip
    checkpoint = tmp_path / "checkpoint_last.pt"
    assert perplexity(lm_data, checkpoint, "--context-window", "6")[1] < 12
    done = fairseq(
        "generate", lm_data, "--path", checkpoint, "--cpu", "--task", "language_modeling",
        "--beam", "2", "--prefix-size", "1", "--sample-break-mode", "eos", "--max-len-b", "9",
        *EVERY_SENTENCE,
    )  # fmt: skip
    assert len(hypotheses(done.stdout)) == 9


@cli
def test_bad_options_end_in_one_clear_line(lm_data, tmp_path):
    done = train_lm(lm_data, tmp_path / "run", "--self-target", check=False)
    assert done.returncode != 0
    assert "leave out --self-target" in last_line(done)
    assert not list(tmp_path.glob("run/*.pt"))


def test_context_windows_want_one_process_that_loads_them():
    """fairseq's data set hands the context from one window to the next, in each process."""
    window = ["--context-window", "5", "--num-workers"]
    for words in ([*window, "1"], [*window, "0"], window[:2], [*window[2:], "2"], [*window, "all"]):
        check_arguments(words)
    with pytest.raises(UserError, match=r"--num-workers 2: .* give --num-workers 1"):
        check_arguments([*window, "2"])
    for option in ("--num-shards", "--distributed-world-size"):
        check_arguments([*window[:2], option, "1"])
        with pytest.raises(UserError, match=f"{option} 8: .* give {option} 1"):
            check_arguments([*window[:2], option, "8"])
    with pytest.raises(UserError, match="--num-workers 3"):
        check_arguments(["--context-window=5", "--num-workers=3"])


@cli
def test_averaging_over_training_with_numbered_memory(lm_data, tmp_path):
    """fairseq averages whatever a checkpoint holds, and stumbled over the number of positions."""
    train_lm(
        lm_data, tmp_path, "--memory-tokens", "3", "--memory-positions", "--store-ema",
        "--ema-decay", "0.9", "--max-update", "4", "--decoder-normalize-before",
    )  # fmt: skip
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    average = state["extra_state"]["ema"]
    assert set(average) == set(state["model"])
    assert average["decoder.memory.position_offset"].item() == 3
    own = state["model"]["decoder.memory.weight"]
    assert not torch.equal(average["decoder.memory.weight"], own)
    # the average as a model: how its users evaluate it
    averaged = tmp_path / "averaged.pt"
    torch.save({**state, "model": average}, averaged)
    losses = [perplexity(lm_data, path)[0] for path in (tmp_path / "checkpoint_last.pt", averaged)]
    assert losses[0] != losses[1] and all(math.isfinite(loss) for loss in losses)


@cli
def test_a_context_window_as_long_as_the_block_is_refused(lm_data, lm):
    with pytest.raises(UserError, match=r"leaves 0 of the tokens .* above --context-window"):
        perplexity(lm_data, lm, "--context-window", BLOCK)
