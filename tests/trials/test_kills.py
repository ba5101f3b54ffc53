"""A training that is killed, at any moment and several times, ends as the uninterrupted one."""

import functools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from helpers import kills, tiny_data
from helpers.commands import EVERY_SENTENCE

import fairseq_mem  # noqa: F401  (registers models and tasks)
from fairseq_mem.runs.checkpoints import is_whole
from fairseq_mem.runs.training import training_command

DECODER = """
    --decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 --decoder-attention-heads 2
""".split()
ENCODER = [flag.replace("decoder", "encoder") for flag in DECODER]
TRANSLATION = """
    --share-all-embeddings --memory-tokens 3 --memory-decoder-tokens 2 --batch-size 8
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1
""".split()
SENTENCES = "--memory-tokens 3 --batch-size 8".split()
KINDS: dict[str, tuple[str, list[str]]] = {  # data, and flags
    "documents": ("pairs", [
        "--task", "document_translation", "--arch", "mem_transformer", *ENCODER, *DECODER,
        *TRANSLATION[:-4], "--memory-recurrence", "3", *TRANSLATION[-4:],
    ]),
    "mem_transformer_lm": ("text", [
        "--task", "language_modeling", "--arch", "mem_transformer_lm", *DECODER,
        "--decoder-input-dim", "16", "--decoder-output-dim", "16", "--memory-tokens", "3",
        "--tokens-per-sample", "16", "--batch-size", "3", "--criterion", "cross_entropy",
    ]),
    "mem_transformer_xl": ("text", [
        "--task", "streaming_language_modeling", "--arch", "mem_transformer_xl", *DECODER,
        "--adaptive-softmax-cutoff", "", "--memory-tokens", "3", "--memory-recurrence", "2",
        "--tokens-per-sample", "8", "--cache-length", "12", "--batch-size", "3",
        "--criterion", "cross_entropy",
    ]),
    "masked_lm": ("text", [
        "--task", "masked_lm", "--arch", "mem_roberta", *ENCODER, *SENTENCES,
        "--tokens-per-sample", "40", "--sample-break-mode", "eos", "--criterion", "masked_lm",
    ]),
    "sentence_prediction": ("labelled", [
        "--task", "sentence_prediction", "--arch", "mem_roberta", *ENCODER, *SENTENCES,
        "--max-positions", "40", "--num-classes", "2", "--init-token", "0",
        "--criterion", "sentence_prediction", "--best-checkpoint-metric", "accuracy",
        "--maximize-best-checkpoint-metric",
    ]),
    **{
        arch: ("pairs", ["--arch", arch, *ENCODER, *DECODER, *TRANSLATION])
        for arch in (
            "mem_transformer", "mem_ctrl_transformer", "mem_ctrl_shared_transformer",
            "mem_bottleneck_transformer",
        )
    },
}  # fmt: skip
ALWAYS = f"""
    --lr 0.005 --cpu --seed 1 --num-workers 0 --log-format simple --log-interval 5 --dropout 0.2
    --update-epoch-batch-itr True --max-epoch 3 {" ".join(EVERY_SENTENCE)}
""".split()
# fairseq's own ways, and ours with several batches an update and another scheduler
LEARNING = (
    "--optimizer adam --save-interval-updates 3".split(),
    """--optimizer adam_fused --update-freq 2 --clip-norm 0.1 --save-interval-updates 2
       --lr-scheduler inverse_sqrt --warmup-updates 4""".split(),
)
NOT_KEPT = {"metrics", "previous_training_time"}  # of the clock


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_data.make(tmp_path_factory.mktemp("kills"))


@functools.cache
def configured(data: Path, kind: str, way: int) -> Any:
    """What `fairseq-train` makes of its command line, which costs more than what follows."""
    where, flags = KINDS[kind]
    words = [data / where, *flags, *ALWAYS, *LEARNING[way]]
    args = options.parse_args_and_arch(options.get_training_parser(), list(map(str, words)))
    return convert_namespace_to_omegaconf(args)


def train(cfg: Any, folder: Path, by_recipe: bool = False) -> None:
    """Train, or train on; an update is a step too, and so is what follows it."""
    from fairseq.trainer import Trainer
    from fairseq_cli.train import main

    step = Trainer.train_step

    def counted(*args: Any, **kwargs: Any) -> Any:
        kills.step()
        done = step(*args, **kwargs)
        kills.step()
        return done

    Trainer.train_step = counted
    cfg.checkpoint.save_dir = str(folder)
    if by_recipe:
        cfg.checkpoint.no_last_checkpoints = True
        _, *restored = training_command(["fairseq-train"], folder)
        if restored:
            assert restored[0] == "--restore-file"
            cfg.checkpoint.restore_file = restored[1]
    main(cfg)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Callable[[str, int], tuple[Path, kills.Ended]]:
    """The folder of a training that nothing happened to."""

    @functools.cache
    def made(kind: str, way: int) -> tuple[Path, kills.Ended]:
        folder = tmp_path_factory.mktemp(f"{kind}-{way}")
        cfg = configured(data, kind, way)
        ended = kills.run(lambda: train(cfg, folder), folder)
        assert ended.status == 0, ended.said
        return folder, ended

    return made


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.equal(other)
    if isinstance(one, dict):
        names = one.keys() - NOT_KEPT
        return names == other.keys() - NOT_KEPT and all(same(one[n], other[n]) for n in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def checkpoints(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("checkpoint*.pt")}


@pytest.mark.tries(sample=3, soak=14 * len(KINDS))
def test_training(seed, data, uninterrupted, tmp_path, record_property):
    """Resumed as fairseq does it, from its copy of the last checkpoint, or as our recipes do."""
    chance = random.Random(seed)
    kind, way = list(KINDS)[seed % len(KINDS)], seed // len(KINDS) % len(LEARNING)
    by_recipe = chance.random() < 0.4
    whole, lasted = uninterrupted(kind, way)
    cfg = configured(data, kind, way)

    def program() -> None:
        train(cfg, tmp_path, by_recipe)

    killed = 0
    for _ in range(chance.randint(2, 4)):
        moment = kills.some_moment(chance, lasted)
        ended = kills.run(program, tmp_path, moment)
        print(moment, ended.status, "after", ended.steps, "steps")
        assert ended.killed or ended.status == 0, ended.said
        for path in checkpoints(tmp_path).values():
            assert is_whole(path), path
        if not ended.killed:
            break
        killed += 1
    record_property(kind, killed)
    ended = kills.run(program, tmp_path)
    assert ended.status == 0, ended.said
    expected, found = checkpoints(whole), checkpoints(tmp_path)
    if by_recipe:
        expected.pop("checkpoint_last.pt")
    assert found.keys() == expected.keys()
    for name, path in expected.items():
        one, other = (torch.load(file) for file in (path, found[name]))
        for part in ("model", "last_optimizer_state", "extra_state"):
            assert same(one[part], other[part]), f"{part} of {name}"
        of_each = [state["optimizer_history"][-1] for state in (one, other)]  # one a resumption
        assert same(*of_each), f"optimizer_history of {name}"
    shutil.rmtree(tmp_path)
