"""Who competes, as data: the flags that a user would give to fairseq-train.

A later flag wins over an earlier one, so a contestant may name another criterion or optimizer
than the usual. To add a contestant, add a line to :func:`training_flags`.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from fairseq_mem.updates import UPDATES

# fairseq's examples/translation/README.md, with every update clipped
USUAL = (
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 "
    "--optimizer adam --adam-betas (0.9,0.98) --weight-decay 0.0001 --clip-norm 1 "
    "--lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --share-all-embeddings"
)

# What we recommend: the same loss and the same steps, computed faster
RECOMMENDED = "--criterion label_smoothed_cross_entropy_fused --optimizer adam_fused"


class Size(NamedTuple):
    """A model's size; encoder and decoder are alike."""

    layers: int
    dim: int
    ffn: int
    heads: int
    dropout: float

    @property
    def flags(self) -> str:
        """As fairseq's options."""
        sides = (
            f"--{side}-layers {self.layers} --{side}-embed-dim {self.dim} "
            f"--{side}-ffn-embed-dim {self.ffn} --{side}-attention-heads {self.heads}"
            for side in ("encoder", "decoder")
        )
        return " ".join((*sides, f"--dropout {self.dropout}"))


SIZES = {
    "small": Size(4, 128, 512, 8, 0.1),
    "iwslt": Size(6, 512, 1024, 4, 0.3),
    "base": Size(6, 512, 2048, 8, 0.1),
    "big": Size(6, 1024, 4096, 16, 0.3),
}

STOCK = "fairseq"  # everybody is compared with it
X_TRANSFORMERS = "x-transformers-10"


def memory_name(update: str, tokens: int) -> str:
    """How a model of ours is called in the tables."""
    return f"mem-{tokens}" if update == "shared" else f"mem-{update}-{tokens}"


def memory_flags(update: str, tokens: int) -> str:
    """A model of ours."""
    return f"--arch mem_transformer --memory-update {update} --memory-tokens {tokens}"


def chosen(contestants: Mapping[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """Those whose names match one of the patterns (* and ?)."""
    return {
        name: contestant
        for name, contestant in contestants.items()
        if any(fnmatch(name, pattern) for pattern in patterns)
    }


def training_flags() -> dict[str, str]:
    """The architecture, and what departs from USUAL, of all that fairseq trains."""
    found = {
        STOCK: "--arch transformer",
        f"{STOCK}-our-flags": f"--arch transformer {RECOMMENDED}",
        "mem-0": f"{memory_flags('shared', 0)} {RECOMMENDED}",
        "mem-10-usual-flags": memory_flags("shared", 10),
    }
    for update in UPDATES:
        for tokens in (10, 20):
            flags = f"{memory_flags(update, tokens)} {RECOMMENDED}"
            found[memory_name(update, tokens)] = flags
    return found
