"""`fairseq-mem average`, against sums by hand.

That fairseq loads what it writes is tested where a trained model is at hand, in
test_lesion.py.
"""

import argparse
import os
import resource
import subprocess

import pytest
import torch
from helpers.commands import HANGS
from helpers.forked_commands import run

import fairseq_mem
from fairseq_mem.tools import cli


def checkpoint(path, seed, dtype=torch.float32, **changes):
    """A file as fairseq writes it: two tied embeddings, a buffer of integers, the options."""
    numbers = torch.Generator().manual_seed(seed)
    table = torch.randn(7, 3, generator=numbers).to(dtype)
    state = {
        "args": argparse.Namespace(arch="mem_transformer", seed=seed),
        "cfg": None,
        "model": {
            "encoder.version": torch.tensor([3.0]),
            "encoder.embed_tokens.weight": table,
            "decoder.embed_tokens.weight": table,
            "encoder.memory.weight": torch.randn(2, 3, generator=numbers).to(dtype),
            "encoder.memory.position_offset": torch.tensor(seed),
        },
        "optimizer_history": [{"num_updates": 10 * seed}],
        "task_state": {"kept": seed},
        "extra_state": {"train_iterator": {"epoch": seed}, "ema": {"w": torch.ones(1)}},
        "last_optimizer_state": {"state": torch.randn(100)},
    }
    state["model"].update(changes)
    torch.save(state, path)
    return path


@pytest.fixture
def three(tmp_path):
    return [checkpoint(tmp_path / f"checkpoint{number}.pt", number) for number in (1, 2, 3)]


def average(*words):
    return cli.main(["average", *map(str, words)])


def refusal(*words):
    with pytest.raises(fairseq_mem.UserError) as stop:
        average(*words)
    message = str(stop.value)
    assert "\n" not in message
    return message


def test_the_same_bytes_again(three, tmp_path):
    for name in ("a.pt", "b.pt"):
        assert average(*three, "--out", tmp_path / name) == 0
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parameters_are_means_and_the_rest_is_the_last_ones(tmp_path, dtype):
    paths = [checkpoint(tmp_path / f"{number}.pt", number, dtype) for number in (1, 3, 2)]
    average(*paths, "--out", tmp_path / "out.pt")
    states = [torch.load(path) for path in (*paths, tmp_path / "out.pt")]
    averaged = states.pop()
    assert list(averaged["model"]) == list(states[0]["model"])
    for key, value in averaged["model"].items():
        inputs = [state["model"][key].tolist() for state in states]
        if key.endswith("offset"):
            assert value.tolist() == 2  # an integer: the last one's
            continue
        assert value.dtype is states[0]["model"][key].dtype
        for place in range(value.numel()):
            numbers = [torch.tensor(rows).reshape(-1)[place].item() for rows in inputs]
            exact = torch.tensor(sum(numbers) / 3, dtype=torch.float64)
            found = value.reshape(-1)[place]
            torch.testing.assert_close(found, exact.to(value.dtype), rtol=1e-6, atol=1e-7)
    assert averaged["args"].seed == 2
    assert averaged["task_state"] == {"kept": 2}
    assert averaged["optimizer_history"] == [{"num_updates": 20}]
    assert averaged["extra_state"] == {"train_iterator": {"epoch": 2}}
    assert "last_optimizer_state" not in averaged


def test_numbers_of_eight_bits(tmp_path):
    """torch stores them and has no sums of them."""
    sums = [torch.tensor([[number, 1.0]]).to(torch.float8_e5m2) for number in (1.0, 3.0)]
    paths = [checkpoint(tmp_path / f"{n}.pt", n, more=value) for n, value in enumerate(sums)]
    average(*paths, "--out", tmp_path / "mean.pt")
    found = torch.load(tmp_path / "mean.pt", weights_only=False)["model"]["more"]
    assert found.dtype is torch.float8_e5m2 and found.float().tolist() == [[2.0, 1.0]]


def test_sums_do_not_overflow_in_half_precision(tmp_path):
    big = {"encoder.memory.weight": torch.full((2, 3), 60000.0, dtype=torch.float16)}
    paths = [checkpoint(tmp_path / f"{n}.pt", n, torch.float16, **big) for n in (1, 2)]
    average(*paths, "--out", tmp_path / "out.pt")
    averaged = torch.load(tmp_path / "out.pt")["model"]["encoder.memory.weight"]
    assert averaged.dtype is torch.float16 and averaged.tolist() == [[60000.0] * 3] * 2


def test_tied_embeddings_stay_one_tensor(three, tmp_path):
    average(*three, "--out", tmp_path / "out.pt")
    averaged = torch.load(tmp_path / "out.pt")["model"]
    tied = [averaged[f"{side}.embed_tokens.weight"].data_ptr() for side in ("encoder", "decoder")]
    assert tied[0] == tied[1] != averaged["encoder.memory.weight"].data_ptr()


def test_embeddings_tied_in_one_checkpoint_only_are_averaged_apart(tmp_path):
    apart = {"decoder.embed_tokens.weight": torch.zeros(7, 3)}
    paths = [checkpoint(tmp_path / "1.pt", 1, **apart), checkpoint(tmp_path / "2.pt", 2)]
    average(*paths, "--out", tmp_path / "out.pt")
    averaged = torch.load(tmp_path / "out.pt")["model"]
    two = torch.load(paths[1])["model"]["decoder.embed_tokens.weight"]
    torch.testing.assert_close(averaged["decoder.embed_tokens.weight"], two / 2)
    assert not torch.equal(
        averaged["decoder.embed_tokens.weight"], averaged["encoder.embed_tokens.weight"]
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--last", "2"], ["checkpoint9.pt", "checkpoint10.pt"]),
        (["--num-epoch-checkpoints", "1"], ["checkpoint10.pt"]),
        (
            ["--num-epoch-checkpoints", "2", "--checkpoint-upper-bound", "9"],
            ["checkpoint2.pt", "checkpoint9.pt"],
        ),
        (["--num-update-checkpoints", "2"], ["checkpoint_2_90.pt", "checkpoint_1_100.pt"]),
    ],
)
def test_the_last_are_counted_not_spelled(tmp_path, capsys, options, expected):
    """Epoch 10 is later than 9, update 100 later than 90."""
    names = ["checkpoint2.pt", "checkpoint9.pt", "checkpoint10.pt"]
    if options[0] != "--last":
        names += ["checkpoint_1_100.pt", "checkpoint_2_90.pt", "checkpoint_1_80.pt"]
    for number, name in enumerate([*names, "checkpoint_last.pt", "checkpoint_best.pt"], 1):
        checkpoint(tmp_path / name, number)
    average(*options, tmp_path, "--out", tmp_path / "new" / "out.pt")
    told = capsys.readouterr().err.splitlines()
    assert told == [f"averaging {tmp_path / name}" for name in expected]
    assert (tmp_path / "new" / "out.pt").is_file()


def test_a_folder_with_both_kinds_needs_a_choice(three, tmp_path):
    checkpoint(tmp_path / "checkpoint_1_5.pt", 4)
    message = refusal("--last", 2, tmp_path, "--out", tmp_path / "out.pt")
    assert "--num-epoch-checkpoints 2" in message and "--num-update-checkpoints 2" in message
    (tmp_path / "updates").mkdir()
    for number in (5, 50):
        checkpoint(tmp_path / "updates" / f"checkpoint_1_{number}.pt", number)
    average("--last", 2, tmp_path / "updates", "--out", tmp_path / "out.pt")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    weights = torch.load(path)["model"]["encoder.memory.weight"].numpy().tobytes()
    content[content.index(weights)] ^= 1
    path.write_bytes(content)


def make_hostile(path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(path) + ".hacked",)

    torch.save({"model": {}, "args": Hostile()}, path)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (cut_short, "damaged"),
        (flip_a_byte, "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_text("a letter\n"), "damaged, or no checkpoint"),
        (make_hostile, "safe loader refuses"),
        (lambda path: torch.save([1, 2], path), "no checkpoint of fairseq's"),
        (lambda path: path.unlink(), "there is no checkpoint"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    ],
)
def test_a_file_that_is_no_good_is_named(three, tmp_path, spoil, complaint):
    spoil(three[1])
    message = refusal(*three, "--out", tmp_path / "out.pt")
    assert complaint in message and str(three[1]) in message
    assert sorted(path.name for path in tmp_path.iterdir() if path not in three) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"more": torch.zeros(1)}, "checkpoint9.pt has more and"),
        ({"encoder.memory.weight": torch.zeros(5, 3)}, "shape (2, 3) in"),
        ({"encoder.memory.weight": torch.zeros(2, 3).half()}, "type torch.float32 in"),
    ],
)
def test_checkpoints_of_two_models_are_refused(three, tmp_path, changes, complaint):
    other = checkpoint(tmp_path / "checkpoint9.pt", 9, **changes)
    message = refusal(*three, other, "--out", tmp_path / "out.pt")
    assert complaint in message and str(three[0]) in message and str(other) in message
    assert not (tmp_path / "out.pt").exists()


def test_slips_of_the_keyboard(three, tmp_path, capsys):
    out = tmp_path / "out.pt"
    before = three[2].read_bytes()
    assert "one of the checkpoints" in refusal(*three, "--out", three[2])
    assert three[2].read_bytes() == before
    assert "given twice" in refusal(*three, three[0], "--out", out)
    assert "has 3 checkpoints of epochs, 4 were" in refusal("--last", 4, tmp_path, "--out", out)
    assert "up to epoch 2" in refusal(
        "--last", 3, tmp_path, "--checkpoint-upper-bound", 2, "--out", out
    )
    assert "no folder" in refusal("--last", 1, tmp_path / "none", "--out", out)
    assert "one folder, not 2" in refusal("--last", 1, tmp_path, tmp_path, "--out", out)
    assert "give --last" in refusal(*three, "--checkpoint-upper-bound", 2, "--out", out)
    assert "is a folder" in refusal(*three, "--out", tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal(*three, "--out", tmp_path / "file" / "out.pt")
    with pytest.raises(SystemExit) as stop:
        average("--last", "0", tmp_path, "--out", out)
    assert stop.value.code == 2
    assert not out.exists()


def test_what_the_machine_says_is_told(tmp_path):
    """torch has words of its own for it: "unexpected pos 64 vs 0"."""
    paths = [checkpoint(tmp_path / f"{seed}.pt", seed) for seed in (1, 2)]
    words = ["fairseq-mem", "average", *paths, "--out", tmp_path / "out"]
    ended = run(cli.main, words, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert ended.status == 1 and "out: File too large; free some space" in ended.last_line
    assert sorted(tmp_path.iterdir()) == paths


def test_what_is_no_file_is_not_replaced(tmp_path):
    """As root this would make a file of /dev/null."""
    paths = [str(checkpoint(tmp_path / f"{seed}.pt", seed)) for seed in (1, 2)]
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to("file")
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    cli.main(["average", *paths, "--out", str(fifo)])
    assert reader.communicate(timeout=HANGS)[0].startswith(b"PK")
    cli.main(["average", *paths, "--out", str(link)])
    assert fifo.is_fifo() and link.is_symlink()
    assert (tmp_path / "file").read_bytes().startswith(b"PK")
