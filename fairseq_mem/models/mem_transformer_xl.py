"""Transformer-XL with memory tokens: options, sizes, and building the model.

The model itself is in ``xl_decoder.py``, its attention in ``attention/relative.py``. It reads
contiguous streams, which ``--task streaming_language_modeling`` gives it.
"""

import logging
from typing import Any, cast

import torch
from fairseq import options as fairseq_options
from fairseq.models import (
    FairseqLanguageModel,
    register_model,
    register_model_architecture,
)
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn

from ..adaptive_bands import check_bands
from ..dictionaries import note_dictionaries
from ..errors import UserError
from ..literals import literal
from ..memory import MemoryTokens
from ..options import (
    TRANSFORMER_XL,
    add_memory_options,
    check_memory_options,
    set_memory_defaults,
)
from ..streaming.state import StreamState
from .memory_model import MemoryModel
from .xl_decoder import XLDecoder

logger = logging.getLogger(__name__)


@register_model("mem_transformer_xl")
class MemTransformerXLModel(MemoryModel, FairseqLanguageModel):
    """Transformer-XL (Dai et al. 2019) with memory tokens (arXiv 2006.11527, section 4)."""

    decoder: XLDecoder

    def __init__(self, args: Any, decoder: XLDecoder) -> None:
        super().__init__(decoder)
        self.args = args

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add the options; none has a default here: it would win over the architecture's."""
        # fmt: off
        parser.add_argument("--decoder-layers", type=int, metavar="N",
                            help="layers")
        parser.add_argument("--decoder-embed-dim", type=int, metavar="N",
                            help="width")
        parser.add_argument("--decoder-ffn-embed-dim", type=int, metavar="N",
                            help="width inside the feed-forward parts")
        parser.add_argument("--decoder-attention-heads", type=int, metavar="N",
                            help="attention heads")
        parser.add_argument("--decoder-normalize-before", action="store_true",
                            help="layer norm before each part and behind the last layer "
                                 "(default: behind each part, as in the paper)")
        parser.add_argument("--dropout", type=float, metavar="P",
                            help="of the embeddings, the position codes, each part's output")
        parser.add_argument("--attention-dropout", type=float, metavar="P",
                            help="of the attention weights")
        parser.add_argument("--activation-dropout", "--relu-dropout", type=float, metavar="P",
                            help="inside the feed-forward parts (default: --dropout)")
        parser.add_argument("--adaptive-softmax-cutoff", metavar="N,N,...",
                            help="adaptive input and softmax with tied weights, for --criterion "
                                 "adaptive_loss; cut-offs beyond the dictionary are left out, "
                                 "with none left (or '') it is one table for both")
        parser.add_argument("--adaptive-softmax-factor", type=float, metavar="F",
                            help="each band of rarer words is F times narrower (default 1)")
        parser.add_argument("--cache-length", type=int, metavar="N",
                            help="words before the segment whose states are kept for it; 0: none")
        parser.add_argument("--clamp-distance", type=int, metavar="N",
                            help="treat distances above N as N; 0 (default): no limit")
        # fmt: on
        add_memory_options(parser, TRANSFORMER_XL)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "MemTransformerXLModel":
        """Build the model, from the command line or from a checkpoint's options.

        Raises:
            UserError: an option has a value that makes no sense, or the task gives no streams.
        """
        _base(args)  # what an older checkpoint lacks; present values stay
        check_options(args)
        note_dictionaries(args, task)
        if not getattr(task, "gives_streams", False):
            raise UserError(
                "mem_transformer_xl reads every row of the batch on and on, and this task shuffles "
                "its pieces; give --task streaming_language_modeling"
            )
        words = task.source_dictionary
        # fairseq clears the row of the padding symbol's number in every band: there must be one
        smallest = words.pad() + 1
        cutoff = _cutoff(args.adaptive_softmax_cutoff, len(words))
        cutoff = [number for number in cutoff if len(words) - number >= smallest]
        embed_tokens: nn.Module
        softmax = None
        dim = args.decoder_embed_dim
        if cutoff:
            factor = args.adaptive_softmax_factor
            check_bands("softmax", cutoff, len(words), dim, factor, smallest)
            embed_tokens = AdaptiveInput(len(words), words.pad(), dim, factor, dim, cutoff)
            softmax = AdaptiveSoftmax(
                len(words), dim, cutoff, 0.0, factor, adaptive_inputs=embed_tokens, tie_proj=True
            )
        else:
            embed_tokens = nn.Embedding(len(words), dim, words.pad())
            nn.init.normal_(embed_tokens.weight, std=dim**-0.5)
            nn.init.zeros_(embed_tokens.weight[words.pad()])
        memory = None
        if args.memory_tokens > 0:
            std = 1.0 if args.memory_init_std is None else args.memory_init_std
            memory = MemoryTokens(args.memory_tokens, dim, std, takes_positions=False)
        model = cls(args, XLDecoder(args, words, embed_tokens, softmax, memory))
        model.freeze_for(args)
        return model

    @torch.no_grad()
    def memory_states(self, tokens: Tensor, segment: int | None = None) -> Tensor:
        """What memory holds behind each segment of B x T words: S x B x m x C.

        Raises:
            UserError: the model writes no memory.
        """
        if not self.decoder.recurrent:
            raise UserError(
                "memory_states: this model writes no memory, every segment begins with the trained "
                "vectors; take one with memory_recurrence"
            )
        state, held = StreamState(), []
        for part in tokens.split(segment or tokens.size(1), dim=1):
            state = self.decoder.read_segment(part, state)[1]
            held.append(cast(Tensor, state.memory))
        return torch.stack(held)


def check_options(args: Any) -> None:
    """Refuse values that make no sense, wherever they come from (``--model-overrides`` too).

    Raises:
        UserError: names the option, its value and what to do.
    """
    check_memory_options(args, TRANSFORMER_XL)
    for name, least, hint in (
        ("decoder_layers", 1, ""),
        ("decoder_attention_heads", 1, ""),
        ("tokens_per_sample", 1, "; it is the segment's length"),
        ("cache_length", 0, "; 0 switches the cache off"),
        ("clamp_distance", 0, "; 0 is no limit"),
    ):
        value = getattr(args, name)
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} is {value!r}; give a whole number of {least} or more{hint}")
    dim, heads = args.decoder_embed_dim, args.decoder_attention_heads
    if dim < 1 or dim % heads != 0:
        raise UserError(f"decoder_embed_dim {dim} is no multiple of {heads} attention heads")
    if args.memory_only and args.memory_recurrence > 0:
        raise UserError(
            "memory_only with memory_recurrence trains in an epoch's first batch only: the others "
            "do not begin with the trained memory; leave one of the two out"
        )
    if not 0 < args.adaptive_softmax_factor < float("inf"):
        raise UserError(
            f"adaptive_softmax_factor is {args.adaptive_softmax_factor}; give a positive number"
        )


def _cutoff(text: str | None, words: int) -> list[int]:
    """The cut-offs that leave every band of a dictionary of this size enough words."""
    try:
        value = literal(text) if isinstance(text, str) and text else text or []
        given = fairseq_options.eval_str_list(value, type=int)
        assert given == sorted(set(given)) and (not given or given[0] > 0)
    except Exception:
        raise UserError(
            f"adaptive_softmax_cutoff is {text!r}; give rising numbers: 20000,40000,200000"
        ) from None
    cutoff = [number for number in given if number < words]
    if cutoff != given:
        logger.info(f"the dictionary has {words} words: of the cut-offs {given} {cutoff} are used")
    return cutoff


# Presets


@register_model_architecture("mem_transformer_xl", "mem_transformer_xl")
def _base(args: Any) -> None:
    """The paper's set-up for WikiText-103 with 20 memory tokens."""
    for name, value in dict(
        decoder_layers=16, decoder_embed_dim=410, decoder_ffn_embed_dim=2100,
        decoder_attention_heads=10, decoder_normalize_before=False, dropout=0.1,
        attention_dropout=0.0, adaptive_softmax_cutoff="20000,40000,200000",
        adaptive_softmax_factor=1.0, cache_length=150, clamp_distance=0,
    ).items():  # fmt: skip
        setattr(args, name, getattr(args, name, value))
    set_memory_defaults(args, TRANSFORMER_XL, memory_carry="plain")
    args.activation_dropout = getattr(args, "activation_dropout", args.dropout)
    if getattr(args, "tokens_per_sample", None) is None:  # the task's option
        args.tokens_per_sample = 150


@register_model_architecture("mem_transformer_xl", "mem_transformer_xl_small")
def _small(args: Any) -> None:
    """For a trial on a CPU: 4 layers, d 128, d_ff 512, 4 heads, 10 memory tokens, one softmax."""
    for name, value in dict(
        decoder_layers=4, decoder_embed_dim=128, decoder_ffn_embed_dim=512,
        decoder_attention_heads=4, adaptive_softmax_cutoff="", cache_length=64, memory_tokens=10,
    ).items():  # fmt: skip
        setattr(args, name, getattr(args, name, value))
    if getattr(args, "tokens_per_sample", None) is None:
        args.tokens_per_sample = 64
    _base(args)
