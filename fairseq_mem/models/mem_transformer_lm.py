"""fairseq's ``transformer_lm`` with memory tokens in front of the text, under the causal mask."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture, transformer_lm
from fairseq.models.transformer import TransformerConfig

from ..adaptive_bands import check_bands
from ..attention.controls import has_controls
from ..decoder import MemTransformerDecoder
from ..dictionaries import note_dictionaries
from ..errors import UserError
from ..option_conflicts import check_transformer_options
from ..options import (
    LANGUAGE_MODEL,
    add_memory_options,
    check_memory_options,
    set_memory_defaults,
)
from .memory_model import MemoryModel


@register_model("mem_transformer_lm")
class MemTransformerLanguageModel(MemoryModel, transformer_lm.TransformerLanguageModel):
    """fairseq's ``transformer_lm`` with trainable memory tokens (arXiv 2006.11527, section 4).

    Every block of text has memory in front of it: a slot sees the slots before it, a word sees
    all slots and the words before it, and the loss is over words. At ``--memory-tokens 0`` it is
    built of fairseq's own decoder, and nothing of ours runs.
    """

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add fairseq's options for ``transformer_lm`` and ours."""
        config = transformer_lm.TransformerLanguageModelConfig()
        gen_parser_from_dataclass(parser, config, delete_default=True)
        add_memory_options(parser, LANGUAGE_MODEL)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "MemTransformerLanguageModel":
        """Build the model, from the command line or from a checkpoint's options.

        Raises:
            UserError: an option has a value that makes no sense.
        """
        _base(args)  # what an older checkpoint lacks; present values stay
        if getattr(args, "memory_lesion_scope", None) in ("decoder", "all"):
            del args.memory_lesion_scope  # older checkpoints name the one place that there is
        check_memory_options(args, LANGUAGE_MODEL)
        check_transformer_options(args)
        note_dictionaries(args, task)
        _check(args, task)
        if args.memory_tokens == 0 and not args.memory_positions and not has_controls(args):
            model = super().build_model(args, task)
        else:
            model = cls(cls._build_decoder(args, task))
        model.args = args
        model.freeze_for(args)
        return model

    @classmethod
    def _build_decoder(cls, args: Any, task: Any) -> MemTransformerDecoder:
        """Build the decoder with memory.

        Raises:
            UserError: memory takes so many learned positions that a block finds too few.
        """
        # the embedding is of several kinds: fairseq builds it, around a decoder without layers
        shell = Namespace(**vars(args))
        shell.decoder_layers = shell.base_layers = 0
        shell.decoder_layers_to_keep = None
        embed_tokens = super().build_model(shell, task).decoder.embed_tokens
        args.max_target_positions = shell.max_target_positions  # default: a block's length
        if args.decoder_layers_to_keep:
            args.decoder_layers = len(args.decoder_layers_to_keep.split(","))

        cfg = TransformerConfig.from_namespace(args)
        # to the decoder, memory in front of the text is memory of its own; there is no encoder
        cfg.memory_tokens, cfg.memory_decoder_tokens = 0, args.memory_tokens
        cfg.memory_lesion_scope = "decoder"
        decoder = MemTransformerDecoder(
            cfg, task.target_dictionary, embed_tokens, no_encoder_attn=True
        )
        longest = getattr(args, "tokens_per_sample", None) or 0
        if args.memory_positions and args.decoder_learned_pos and decoder.max_positions() < longest:
            raise UserError(
                f"memory_positions leaves {decoder.max_positions()} of the "
                f"{args.max_target_positions} learned positions to the text, and tokens_per_sample "
                f"is {longest}; give --max-target-positions {longest + args.memory_tokens}"
            )
        return decoder


def _check(args: Any, task: Any) -> None:
    """Refuse what makes no sense in a language model.

    Raises:
        UserError: names the option, its value and what to do.
    """
    words = task.source_dictionary
    if args.adaptive_input:
        check_bands(
            "input", args.adaptive_input_cutoff, len(words), args.decoder_input_dim,
            args.adaptive_input_factor, smallest=words.pad() + 1,
        )  # fmt: skip
    if args.adaptive_softmax_cutoff is not None:
        check_bands(
            "softmax", args.adaptive_softmax_cutoff, len(words), args.decoder_output_dim,
            args.adaptive_softmax_factor,
        )  # fmt: skip
    targets = getattr(task, "targets", ["future"])
    if targets != ["future"]:
        raise UserError(
            f"the task asks for the targets {', '.join(targets)}; a causal language model predicts "
            "the next word: leave out --self-target and --past-target"
        )
    block = getattr(getattr(task, "args", None), "tokens_per_sample", 1)
    if block < 1:  # fairseq-eval-lm has taken the context off it
        raise UserError(
            f"the context window leaves {block} of the tokens per sample to be scored; give "
            "--tokens-per-sample (context and scored words together) above --context-window"
        )


# Presets: fairseq's own sizes and the number of memory tokens.


class _Preset:
    """A size of fairseq's with memory tokens; of a module's class, so that it can be pickled."""

    def __init__(self, size: Callable[[Any], None] | None, tokens: int) -> None:
        self.size, self.tokens = size, tokens

    def __call__(self, args: Any) -> None:
        set_memory_defaults(args, LANGUAGE_MODEL, memory_tokens=self.tokens)
        if self.size is not None:
            self.size(args)
        # What is left, fairseq's transformer_lm takes from its dataclass. An interpolation
        # ("${task.tokens_per_sample}") names an option of the task, which brings its value.
        for option in fields(transformer_lm.TransformerLanguageModelConfig):
            default = option.default
            if option.name[0] != "_" and not str(default).startswith("${"):
                setattr(args, option.name, getattr(args, option.name, default))


_base = _Preset(None, 20)
for _name, _preset in (
    ("mem_transformer_lm", _base),
    ("mem_transformer_lm_wiki103", _Preset(transformer_lm.transformer_lm_baevski_wiki103, 20)),
    ("mem_transformer_lm_gpt2_small", _Preset(transformer_lm.transformer_lm_gpt2_small, 20)),
):
    register_model_architecture("mem_transformer_lm", _name)(_preset)
