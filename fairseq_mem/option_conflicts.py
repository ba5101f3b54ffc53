"""Options that do not go with each other, with a model, or with training."""

from typing import Any

from .attention.controls import has_controls
from .errors import UserError
from .literals import numbers_of


def lesion_problem(args: Any) -> str | None:
    """What is wrong with the slots and layers that a lesion is of; None if nothing is."""
    slots = max(args.memory_tokens, getattr(args, "memory_decoder_tokens", 0))
    depth = max(getattr(args, f"{side}_layers", None) or 0 for side in ("encoder", "decoder"))
    for name, count in (("memory_lesion_slots", slots), ("memory_lesion_layers", depth)):
        value = getattr(args, name)
        if value is not None and args.memory_lesion == "none":
            return f"{name} is {value!r}, and there is no lesion; give memory_lesion too"
        if value is not None and max(numbers_of(value) or [0]) >= count:
            return f"{name} is {value!r}, and the model has {count}, numbered from 0"
    return None


def check_head(args: Any) -> None:
    """Refuse what a classification head cannot read.

    Raises:
        UserError: names the option and what to do.
    """
    if args.memory_head == "memory" and args.memory_tokens == 0:
        raise UserError(
            "memory_head 'memory' reads memory, and there is none; give --memory-tokens, or "
            "--memory-head start"
        )
    if not args.memory_unread:
        return
    if args.memory_head != "memory":
        raise UserError(
            f"memory_unread hides memory from the text, and memory_head {args.memory_head!r} does "
            "not read it either; give --memory-head memory"
        )
    if args.memory_update == "bottleneck":
        raise UserError(
            "memory_unread leaves the text of memory_update 'bottleneck' nothing to read; choose "
            "another update, or leave it out"
        )


def check_transformer_options(args: Any) -> None:
    """Refuse what fairseq's Transformers have and memory does not go with.

    Raises:
        UserError: names the option and what to do.
    """
    memory = args.memory_tokens + getattr(args, "memory_decoder_tokens", 0)
    ours = memory > 0 or has_controls(args)
    if args.memory_positions and args.no_token_positional_embeddings:
        raise UserError(
            "memory_positions has no position codes to give with --no-token-positional-embeddings; "
            "leave one of the two out"
        )
    of_encoder = getattr(args, "memory_decoder_tokens", 0) == 0 and not has_controls(args)
    if args.memory_only and of_encoder and getattr(args, "no_cross_attention", False):
        raise UserError(
            "memory_only trains the encoder's memory, and with --no-cross-attention nobody reads "
            "it; leave one of the two out, or give --memory-decoder-tokens"
        )
    for side in ("encoder", "decoder"):
        if ours and getattr(args, f"{side}_xformers_att_config", None) is not None:
            raise UserError(
                f"--{side}-xformers-att-config does not know memory; leave it out: attention "
                "already runs through torch's fused kernels"
            )
    if ours and getattr(args, "cross_self_attention", False):
        raise UserError(
            "--cross-self-attention concatenates the encoder's output with the decoder's input, "
            "where memory has no place of its own; leave it out, or set --memory-tokens 0 (and "
            "neither --memory-static nor --attention-sink)"
        )


def refuse_training(args: Any) -> None:
    """Refuse to train with options that are for looking at a trained model.

    Raises:
        UserError: names the option, its value and what to do.
    """
    if args.memory_lesion != "none":
        raise UserError(
            f"memory_lesion is {args.memory_lesion!r}, which is for inference (through "
            "--model-overrides); train without it"
        )
    update = getattr(args, "memory_update", "shared")
    if args.memory_tokens == 0 and update != "shared":
        raise UserError(
            f"memory_update {update!r} has nothing to train with 0 memory tokens; give "
            "--memory-tokens, or --memory-update shared"
        )
