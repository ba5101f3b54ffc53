"""Every architecture of ours, and fairseq's three, small: built as fairseq-train builds them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from fairseq.trainer import Trainer

from . import language, streams
from .batches import Batches
from .contestants import RECOMMENDED, USUAL

WORDS = 400
LENGTH, TOKENS = 20, 320  # of sentences, and of their batch
ROWS, SEGMENT = 8, 24  # of a language model
DIM, LAYERS, HEADS = 64, 2, 4  # half-precision kernels want multiples of 8
CUTOFF = "100,200"
FAIRSEQ = ("transformer", "transformer_lm", "roberta")  # what ours are compared with
SHRUNK = (
    f"--decoder-layers {LAYERS} --decoder-embed-dim {DIM} --decoder-ffn-embed-dim {2 * DIM} "
    f"--decoder-attention-heads {HEADS} --dropout 0.1"
)
ENCODER = (
    f"--encoder-layers {LAYERS} --encoder-embed-dim {DIM} --encoder-ffn-embed-dim {2 * DIM} "
    f"--encoder-attention-heads {HEADS}"
)


class Small(NamedTuple):
    """A small model in fairseq's trainer.

    Attributes:
        trainer: its ``train_step`` is the whole update.
        samples: endless batches; those of a stream go on where the last one ended.
        translates: whether there is a beam search.
    """

    trainer: Trainer
    samples: Iterator[dict[str, Any]]
    translates: bool


def architectures() -> list[str]:
    """All that are registered with fairseq and can be built here, ours behind fairseq's."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODELS

    ours = [name for name in MODELS if name.startswith("mem_") and MODELS[name] in BUILDERS]
    return [*FAIRSEQ, *ours]


def left_out() -> list[str]:
    """Architectures of ours of another kind, which nobody here knows how to feed."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODELS

    return [name for name in MODELS if name.startswith("mem_") and MODELS[name] not in BUILDERS]


def build(arch: str, where: str, more: str = "") -> Small:
    """Model, criterion, optimizer and batches.

    Args:
        arch: one of :func:`architectures`.
        where: flags for device and precision, see ``models.device_flags``.
        more: further flags.
    """
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODELS

    return BUILDERS[MODELS[arch]](arch, f"{where} {more}")


def _translation(arch: str, flags: str) -> Small:
    from .models import build_trainer

    batches = Batches(LENGTH, TOKENS, 1, WORDS)
    trainer = build_trainer(
        f"{USUAL} {RECOMMENDED} --arch {arch} {ENCODER} {SHRUNK} {flags}", batches.dictionary()
    )
    (sample,) = batches.samples()
    return Small(trainer, iter(lambda: sample, None), translates=True)


def _language(arch: str, flags: str) -> Small:
    own = (
        f"--task language_modeling --tokens-per-sample {SEGMENT} --decoder-input-dim {DIM} "
        f"--decoder-output-dim {DIM}"
    )
    flags = f"{own} {_softmax(arch, 'wiki103' in arch, '--adaptive-input-cutoff')} {flags}"
    made = _trainer(f"{streams.USUAL} --arch {arch} {SHRUNK} {flags}")
    (sample,) = language.Blocks(SEGMENT, ROWS, WORDS).samples()
    return Small(made, iter(lambda: sample, None), translates=False)


def _stream(arch: str, flags: str) -> Small:
    own = (
        f"--task streaming_language_modeling --batch-size {ROWS} --tokens-per-sample {SEGMENT} "
        f"--cache-length {SEGMENT} --memory-recurrence 2"
    )
    made = _trainer(
        f"{streams.USUAL} --arch {arch} {SHRUNK} {own} {_softmax(arch, True, '')} {flags}"
    )
    samples = streams.batches(WORDS, ROWS, 2 * SEGMENT, SEGMENT)
    return Small(made, samples, translates=False)


def _sentences(arch: str, flags: str) -> Small:
    own = f"--task masked_lm --criterion masked_lm --dropout 0.1 --tokens-per-sample {LENGTH}"
    made = _trainer(f"{streams.USUAL} --arch {arch} {ENCODER} {own} {flags}")
    words = made.task.source_dictionary
    tokens = torch.randint(4, WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[:, -1] = words.bos(), words.eos()
    masked = torch.arange(1, LENGTH - 1, 6)
    target = torch.full_like(tokens, words.pad())
    target[:, masked] = tokens[:, masked]
    tokens[:, masked] = made.task.mask_idx
    given = {"src_tokens": tokens, "src_lengths": torch.full((ROWS,), LENGTH)}
    sample = {
        "id": torch.arange(ROWS), "net_input": given, "target": target,
        "ntokens": tokens.numel(), "nsentences": ROWS,
    }  # fmt: skip
    return Small(made, iter(lambda: sample, None), translates=False)


def _softmax(arch: str, adaptive: bool, inputs: str) -> str:
    """Flags of the one softmax that the dictionary is large enough for."""
    if not adaptive:
        return "--share-decoder-input-output-embed"
    return (
        f"--adaptive-softmax-cutoff {CUTOFF} {inputs and f'{inputs} {CUTOFF}'} "
        "--criterion adaptive_loss --ddp-backend legacy_ddp"
    )


def _trainer(flags: str) -> Trainer:
    task, cfg = streams.build(flags, WORDS)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    return Trainer(cfg, task, model, criterion)


BUILDERS: dict[str, Callable[[str, str], Small]] = {
    "transformer": _translation,
    "mem_transformer": _translation,
    "transformer_lm": _language,
    "mem_transformer_lm": _language,
    "mem_transformer_xl": _stream,
    "roberta": _sentences,
    "mem_roberta": _sentences,
}
