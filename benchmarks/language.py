"""Suite: a language model's whole update beside fairseq's, words a second."""

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary

from .batches import dictionary
from .contestants import SIZES, STOCK, Size, chosen
from .measure import interleave
from .report import Report
from .suite import Suite
from .training import FairseqTraining

BLOCK = 150  # words; the segment of the paper's language models
BLOCKS = 20  # an update
REFERENCE = f"{STOCK}-lm"
USUAL = (
    "--task language_modeling --criterion cross_entropy --optimizer adam "
    "--adam-betas (0.9,0.98) --weight-decay 0.01 --clip-norm 1 --lr 5e-4 "
    "--lr-scheduler inverse_sqrt --warmup-updates 4000 --share-decoder-input-output-embed"
)
CONTESTANTS = {
    REFERENCE: "--arch transformer_lm",
    "mem-lm-10": "--arch mem_transformer_lm --memory-tokens 10 --optimizer adam_fused",
    "mem-lm-10-usual-flags": "--arch mem_transformer_lm --memory-tokens 10",
}


def size_flags(size: Size) -> str:
    """As fairseq's options; the embedding is as wide as the layers."""
    return (
        f"--decoder-layers {size.layers} --decoder-embed-dim {size.dim} "
        f"--decoder-input-dim {size.dim} --decoder-output-dim {size.dim} "
        f"--decoder-ffn-embed-dim {size.ffn} --decoder-attention-heads {size.heads} "
        f"--dropout {size.dropout} --tokens-per-sample {BLOCK}"
    )


@dataclass(frozen=True)
class Blocks:
    """One batch of blocks of random words, as fairseq's loader makes them of a text."""

    length: int
    count: int
    words: int

    def dictionary(self) -> Dictionary:
        """The dictionary."""
        return dictionary(self.words)

    def samples(self) -> list[dict[str, Any]]:
        """The batch."""
        numbers = torch.Generator().manual_seed(1)
        first = self.dictionary().nspecial
        text = torch.randint(first, self.words, (self.count, self.length + 1), generator=numbers)
        given = {
            "src_tokens": text[:, :-1].contiguous(),
            "src_lengths": torch.full((self.count,), self.length),
        }
        return [{
            "id": torch.arange(self.count), "net_input": given, "nsentences": self.count,
            "target": text[:, 1:].contiguous(), "ntokens": self.count * self.length,
        }]  # fmt: skip


def add_options(parser: Any) -> None:
    """This suite has none of its own."""


def run(options: Namespace, report: Report) -> None:
    """Measure every cell asked for."""
    from .models import device_flags

    where = device_flags(options.device, options.dtype)
    for size in options.sizes or ["small"]:
        for length in options.lengths or [BLOCK]:
            if not isinstance(length, int):
                continue  # "real" is the other suites' word
            batches = Blocks(length, max(1, BLOCK * BLOCKS // length), options.vocabulary)
            flags = f"{USUAL} {size_flags(SIZES[size])} {where}"
            workloads = {
                name: FairseqTraining(f"{flags} {own}", batches)
                for name, own in chosen(CONTESTANTS, options.contestants).items()
            }
            label = f"language, {size}, {length}:"
            results = interleave(workloads, options.device, options.rounds, label=label)
            report.add({"size": size, "length": length}, "words", results, (REFERENCE,))
    report.note(
        f"fairseq's own Trainer does the update, of {BLOCK * BLOCKS:,} words, for fairseq and for "
        f"ours, with `{USUAL}`."
    )


SUITE = Suite("language", "Language model: a whole update", add_options, run)
