"""fairseq's commands in this process: a start of a command costs more than what is tested."""

import io
import multiprocessing
import tempfile
from pathlib import Path

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed

import fairseq_mem  # noqa: F401  (registers models and tasks)
from helpers.commands import EVERY_SENTENCE, HANGS, TINY, TRAIN


def training(data: Path, save_dir: Path, *arguments: object, arch: str):
    """The configuration of a tiny training, without dropout."""
    if "--batch-size-valid" not in arguments:
        arguments = (*arguments, "--disable-validation")
    words = [
        data, "--arch", arch, *TINY, *TRAIN, *EVERY_SENTENCE, "--criterion", "cross_entropy",
        "--dropout", "0", "--save-dir", save_dir, *arguments,
    ]  # fmt: skip
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, input_args=list(map(str, words)))
    return convert_namespace_to_omegaconf(args)


def train(data: Path, save_dir: Path, *arguments: object, arch: str = "mem_transformer") -> Path:
    """Train; returns the last checkpoint."""
    from fairseq_cli.train import main

    main(training(data, save_dir, *arguments, arch=arch))
    return save_dir / "checkpoint_last.pt"


def _rank(rank: int, meet: str, data: Path, save_dir: Path, arguments: tuple, arch: str) -> None:
    from fairseq_cli.train import main

    both = [
        "--distributed-world-size", "2", "--distributed-no-spawn", "--distributed-backend", "gloo",
        "--distributed-init-method", f"file://{meet}", "--ddp-backend", "legacy_ddp",
        "--distributed-rank", rank,
    ]  # fmt: skip
    distributed.call_main(training(data, save_dir, *arguments, *both, arch=arch), main)


def train_on_two(
    data: Path, save_dir: Path, *arguments: object, arch: str = "mem_transformer"
) -> Path:
    """Train as two workers without a GPU; returns the last checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        ranks = [
            context.Process(
                target=_rank, args=(rank, f"{folder}/meet", data, save_dir, arguments, arch)
            )
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(HANGS)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return save_dir / "checkpoint_last.pt"


def generate(data: Path, checkpoint: object, *arguments: object) -> str:
    """What ``fairseq-generate`` prints."""
    from fairseq_cli.generate import _main

    words = [data, "--path", checkpoint, "--cpu", "--num-workers", "0", *EVERY_SENTENCE, *arguments]
    args = options.parse_args_and_arch(options.get_generation_parser(), list(map(str, words)))
    output = io.StringIO()
    _main(convert_namespace_to_omegaconf(args), output)
    return output.getvalue()
