"""Running fairseq's commands as users run them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from helpers.starter import Starter

ROOT = Path(__file__).resolve().parents[2]
USER_DIR = ROOT / "fairseq_mem"

TINY = [
    "--encoder-layers", "2", "--decoder-layers", "2", "--encoder-embed-dim", "32",
    "--decoder-embed-dim", "32", "--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32",
    "--encoder-attention-heads", "2", "--decoder-attention-heads", "2",
    "--max-source-positions", "64", "--max-target-positions", "64",
]  # fmt: skip
TRAIN = [
    "--optimizer", "adam", "--lr", "0.005", "--max-tokens", "500", "--cpu", "--seed", "1",
    "--num-workers", "0", "--log-format", "simple", "--log-interval", "5",
]  # fmt: skip
# Without it fairseq drops the last batch when its size is no multiple of 8.
EVERY_SENTENCE = ["--required-batch-size-multiple", "1"]
MEMORY = ["--memory-tokens", "4", "--memory-decoder-tokens", "2", "--share-all-embeddings"]
SMOOTHED = ["label_smoothed_cross_entropy", "--label-smoothing", "0.1"]


@cache
def starter() -> Starter:
    """One for all tests of this process."""
    return Starter()


def programs() -> str:
    """PATH with such forks in front: for scripts, which begin many commands."""
    return os.pathsep.join(
        [str(starter().programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    )


def python() -> str:
    """PYTHON of the scripts that take one, likewise."""
    return str(starter().programs / "python")


def run(command: str, *arguments: object, check: bool = True, stdin: str = "", **kwargs):
    """Run a command of this environment; its output is captured.

    With ``check`` (the default) a failure shows what the command printed. A fork of a process that
    has imported fairseq is the command, if it is one of fairseq's or ours.
    """
    words = [str(Path(sys.executable).parent / command), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    forked = str(command).startswith("fairseq-") and set(kwargs) <= {"cwd", "timeout"}
    try:
        if forked:
            done = starter().run(words, stdin, environment, **kwargs)
        else:
            done = subprocess.run(
                words, input=stdin, capture_output=True, text=True, env=environment, **kwargs
            )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{late}\n{late.stdout!r}\n{late.stderr!r}") from None
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return done


def fairseq(command: str, *arguments: object, user_dir: object = USER_DIR, **kwargs):
    """Run ``fairseq-COMMAND --user-dir ...``."""
    return run(f"fairseq-{command}", *arguments, "--user-dir", user_dir, **kwargs)


def train(
    data: Path,
    save_dir: Path,
    *arguments: object,
    arch: str = "mem_transformer",
    criterion: Sequence[str] = SMOOTHED,
    **kwargs,
):
    """Train a tiny model on ``data``; returns the finished process."""
    return fairseq(
        "train", data, "--arch", arch, *TINY, *TRAIN, *EVERY_SENTENCE, "--criterion", *criterion,
        "--save-dir", save_dir, *arguments, **kwargs,
    )  # fmt: skip


# So long a wait says that nothing will come; on a busy machine all else may take its time.
HANGS = 1200


def two_workers(train: Callable, *arguments: object) -> list:
    """Call ``train`` as each of two workers without a GPU; returns both finished processes.

    One that fails leaves the other waiting for it: both end, and what each of them said is shown.
    """
    # They meet at a file: a port that is free now may be another program's a moment later.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        both = [
            "--distributed-world-size", "2", "--distributed-no-spawn",
            "--distributed-backend", "gloo", "--distributed-init-method", f"file://{folder}/meet",
            "--ddp-backend", "legacy_ddp",
        ]  # fmt: skip
        ranks = [
            pool.submit(train, *arguments, *both, "--distributed-rank", rank, timeout=HANGS)
            for rank in range(2)
        ]
    errors = [f"rank {rank}: {ran.exception()}" for rank, ran in enumerate(ranks)]
    assert not any(ran.exception() for ran in ranks), "\n\n".join(errors)
    return [ran.result() for ran in ranks]


def last_line(done) -> str:
    """What the user reads last."""
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def hypotheses(output: str) -> list[str]:
    """The ``H-`` lines of ``fairseq-generate``, in the order of the sentences."""
    lines = [line for line in output.splitlines() if line.startswith("H-")]
    return sorted(lines, key=lambda line: int(line.split("\t")[0][2:]))
