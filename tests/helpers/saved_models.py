"""Checkpoints of small untrained models of any task, as fairseq's trainer saves them."""

from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import fairseq_mem  # noqa: F401  (registers the architectures)
from helpers.random_models import dictionary

SIZES = """
    --decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 --decoder-attention-heads 2
""".split()
LANGUAGE_MODEL = ["--task", "language_modeling", "--arch", "mem_transformer_lm", *SIZES,
                  "--tokens-per-sample", "40"]  # fmt: skip
TRANSFORMER_XL = [
    "--task", "streaming_language_modeling", "--arch", "mem_transformer_xl_small", *SIZES,
    "--tokens-per-sample", "4", "--cache-length", "4", "--batch-size", "2",
]  # fmt: skip
SENTENCE_ENCODER = [
    "--task", "masked_lm", "--arch", "mem_roberta_small", "--encoder-layers", "2",
    "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24", "--encoder-attention-heads", "2",
    "--tokens-per-sample", "40",
]  # fmt: skip
TRANSLATION = ["--task", "translation", "--source-lang", "de", "--target-lang", "en", "--arch",
               "mem_transformer", *SIZES,
               *(flag.replace("decoder", "encoder") for flag in SIZES)]  # fmt: skip


def save(folder: Path, flags: list[str], seed: int = 1, criterion: str = "cross_entropy") -> Path:
    """Write the dictionaries and a checkpoint; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dict.txt", "dict.de.txt", "dict.en.txt"):
        dictionary().save(str(folder / name))
    parser = options.get_training_parser()
    always = ["--criterion", criterion, "--optimizer", "adam", "--lr", "0.01", "--cpu"]
    args = options.parse_args_and_arch(parser, input_args=[str(folder), *flags, *always])
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    with torch.no_grad():  # biases, norms and sinks start at 0 and 1, where mistakes hide
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    path = folder / f"model-{seed}.pt"
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    return path
