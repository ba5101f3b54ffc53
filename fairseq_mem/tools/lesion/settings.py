"""What is evaluated: fewer slots, as many as are asked for, and every lesion that a model has."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...checkpoints import read_checkpoint
from ...dictionaries import model_options
from ...errors import UserError

DEFAULT_SLOTS = (0, 2, 5, 10, 20)
LESIONS = ("no-read", "zero-read")


@dataclass(frozen=True)
class Setting:
    """One way of evaluating a model."""

    slots: int
    lesion: str = "none"
    scope: str = ""

    @property
    def name(self) -> str:
        """For files and for people."""
        return f"slots-{self.slots}" if self.lesion == "none" else f"{self.lesion}-{self.scope}"

    @property
    def overrides(self) -> dict[str, Any]:
        """What goes through fairseq's ``--model-overrides``."""
        if self.lesion == "none":
            return {"memory_tokens": self.slots}
        return {"memory_lesion": self.lesion, "memory_lesion_scope": self.scope}


def plan(slots: int, decoder_slots: int, asked: list[int] | None) -> tuple[list[Setting], str]:
    """Choose the settings; the first is the whole model.

    Args:
        slots: how many the model has in its encoder.
        decoder_slots: and in its decoder.
        asked: ``--slots``, if given.

    Returns:
        The settings, and a note on what was left out.

    Raises:
        UserError: more slots were asked for than there are.
    """
    wanted, note = asked or DEFAULT_SLOTS, ""
    if too_many := sorted({count for count in wanted if count > slots}):
        named = ", ".join(map(str, too_many))
        if asked:
            raise UserError(
                f"the model was trained with {slots} memory tokens in its encoder and has no "
                f"{named}; give --slots at most {slots}"
            )
        note = f"left out: {named} slots; the model was trained with {slots}"
    fewer = sorted({count for count in wanted if count < slots}, reverse=True)
    settings = [Setting(count) for count in (slots, *fewer)]
    scopes = (["encoder", "cross"] if slots else []) + (["decoder"] if decoder_slots else [])
    for lesion in LESIONS:
        settings += [Setting(slots, lesion, scope) for scope in (*scopes, "all")]
    return settings, note


def memory_of(checkpoint: Path) -> tuple[int, int]:
    """How many slots a model has in its encoder and in its decoder.

    Raises:
        UserError: it cannot be read, or has none at all.
    """
    state = read_checkpoint(checkpoint)
    weights = state["model"]
    found = [weights.get(f"{side}.memory.weight") for side in ("encoder", "decoder")]
    encoder, decoder = (0 if weight is None else weight.size(0) for weight in found)
    if encoder == decoder == 0:
        raise UserError(f"{checkpoint} has no memory tokens; there is nothing to take away")
    return encoder, decoder


class Size(NamedTuple):
    """Layers of encoder and decoder, and the encoder's heads."""

    encoder: int
    decoder: int
    heads: int

    def __str__(self) -> str:
        return f"{self.encoder} + {self.decoder} layers (encoder + decoder) of {self.heads} heads"


def size_of(checkpoint: Path) -> Size:
    """What lesions of single slots and layers must have in common."""
    state = read_checkpoint(checkpoint)
    layers = [re.match(r"(encoder|decoder)\.layers\.(\d+)\.", name) for name in state["model"]]
    depth = {
        side: 1 + max((int(found[2]) for found in layers if found and found[1] == side), default=-1)
        for side in ("encoder", "decoder")
    }
    return Size(**depth, heads=getattr(model_options(state), "encoder_attention_heads", 0))
