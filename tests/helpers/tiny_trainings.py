"""Tiny trainings of every task and kind of model, with dropout, that end after three epochs."""

import functools
from pathlib import Path
from typing import Any

import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import fairseq_mem  # noqa: F401  (registers models and tasks)
from helpers import kills
from helpers.commands import EVERY_SENTENCE

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


@functools.cache
def configured(data: Path, kind: str, way: int) -> Any:
    """What `fairseq-train` makes of its command line, which costs more than what follows."""
    where, flags = KINDS[kind]
    words = [data / where, *flags, *ALWAYS, *LEARNING[way]]
    args = options.parse_args_and_arch(options.get_training_parser(), list(map(str, words)))
    return convert_namespace_to_omegaconf(args)


def train(cfg: Any, counted: bool = True) -> None:
    """Train, or train on; an update is a step of `kills` too, if they count."""
    from fairseq.trainer import Trainer
    from fairseq_cli.train import main

    step = Trainer.train_step

    def in_steps(*args: Any, **kwargs: Any) -> Any:
        kills.step()
        done = step(*args, **kwargs)
        kills.step()
        return done

    if counted:
        Trainer.train_step = in_steps
    main(cfg)


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
