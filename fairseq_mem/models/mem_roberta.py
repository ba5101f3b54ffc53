"""fairseq's ``roberta`` with memory tokens: the paper's sentence encoder (section 4, GLUE).

Every layer works on [X^mem ; X^seq], X^seq beginning with <s>, by one of the updates of
``updates/``. The head that classifies reads the last layer's <s>, or its memory, as the authors'
``mean_max_pool`` does:

    h = tanh(W [max(H^mem) ; mean(H^mem)])

Whoever asks the encoder for features gets those of the text: ``features[:, 0]`` is <s>, never a
slot.
"""

import logging
import os
from typing import Any

import torch
from fairseq.models import register_model, register_model_architecture, roberta
from fairseq.models.roberta.model import RobertaClassificationHead, RobertaEncoder
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn

from ..attention.controls import has_controls
from ..dictionaries import note_dictionaries
from ..errors import UserError
from ..option_conflicts import check_transformer_options
from ..options import (
    SENTENCE_ENCODER,
    add_memory_options,
    check_memory_options,
    set_memory_defaults,
)
from ..sentence_encoder import MemSentenceEncoder, embedded_std
from ..wordpiece import find_tokenizer
from .memory_model import MemoryModel
from .roberta_hub import MemRobertaHub

logger = logging.getLogger(__name__)
ENCODER = "encoder.sentence_encoder"
POOLER = "pooler.dense"  # what import-bert puts BERT's pooler under


class MemoryHead(RobertaClassificationHead):
    """Classifies by the maximum and the mean over memory; parameters as fairseq's, W twice as wide.

    Args:
        input_dim: C.
        settings: those of fairseq's head.
    """

    def __init__(self, input_dim: int, **settings: Any) -> None:
        super().__init__(2 * input_dim, **settings)

    def forward(self, features: Tensor, memory: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Logits (B x classes) of ``memory``, B x m x C; ``features`` are not looked at."""
        assert memory is not None, "the options were checked: there is memory"
        pooled = torch.cat([memory.amax(dim=1), memory.mean(dim=1)], dim=1)
        return super().forward(pooled.unsqueeze(1))


class MemRobertaEncoder(RobertaEncoder):
    """fairseq's encoder and masked-word head, around layers with memory."""

    def build_encoder(self, args: Any, dictionary: Any, embed_tokens: Any) -> nn.Module:
        """Hook of fairseq's constructor: its own layers where nothing of ours is asked for."""
        if _is_stock(args):
            return super().build_encoder(args, dictionary, embed_tokens)
        cfg = TransformerConfig.from_namespace(args)
        cfg.memory_lesion_scope = "encoder"  # the one place that there is
        if args.memory_unread:
            cfg.memory_lesion = "no-read"
        encoder = MemSentenceEncoder(
            cfg, dictionary, embed_tokens, has_reader=args.memory_head == "memory"
        )
        return encoder.apply(init_bert_params)

    def build_lm_head(self, *args: Any, **kwargs: Any) -> nn.Module | None:
        """Hook of fairseq's constructor; None with ``--memory-no-word-head``."""
        return None if self.args.memory_no_word_head else super().build_lm_head(*args, **kwargs)

    def extract_features(
        self, src_tokens: Tensor, return_all_hiddens: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Encode ``src_tokens`` (B x T, padded on the right).

        Returns:
            The text's features (B x T x C), and with them ``memory`` (B x m x C, absent without)
            and ``inner_states``: the text's in front of and behind each layer, each T x B x C.
        """
        if not isinstance(self.sentence_encoder, MemSentenceEncoder):
            return super().extract_features(src_tokens, return_all_hiddens, **kwargs)
        out = self.sentence_encoder(
            src_tokens,
            return_all_hiddens=return_all_hiddens,
            token_embeddings=kwargs.get("token_embeddings"),
        )
        memory, text = self.sentence_encoder.split_memory(out)
        slots = memory.size(0)
        states = [state[slots:] for state in out["encoder_states"]] if return_all_hiddens else None
        extra = {"inner_states": states, "memory": memory.transpose(0, 1)}
        return text.transpose(0, 1), extra

    def output_layer(
        self, features: Tensor, masked_tokens: Tensor | None = None, **unused: Any
    ) -> Tensor:
        """Logits over words: B x T x V, or N x V of the N ``masked_tokens`` (B x T, True there).

        Raises:
            UserError: the model was built without a head for it.
        """
        if self.lm_head is None:
            raise UserError(
                "this model has no head that predicts masked words (memory_no_word_head: the BERT "
                "it was imported from had none); fine-tune it, or train it on without "
                "--memory-no-word-head, with a fresh one"
            )
        return super().output_layer(features, masked_tokens)

    def max_positions(self) -> int:
        """Longest text in tokens; memory that takes position codes leaves fewer."""
        return min(super().max_positions(), self.sentence_encoder.max_positions())


@register_model("mem_roberta")
class MemRobertaModel(MemoryModel, roberta.RobertaModel):
    """fairseq's ``roberta`` with trainable memory tokens (arXiv 2006.11527).

    At ``--memory-tokens 0`` (and update ``shared``, and nothing of BERT's) it is built of fairseq's
    own layers, and nothing of ours runs.
    """

    memory_places = (ENCODER,)

    @classmethod
    def hub_models(cls) -> dict[str, str]:
        """None of ours are published; a path is a path."""
        return {}

    @staticmethod
    def add_args(parser: Any) -> None:
        """Add fairseq's options for ``roberta`` and ours."""
        roberta.RobertaModel.add_args(parser)
        add_memory_options(parser, SENTENCE_ENCODER)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "MemRobertaModel":
        """Build the model, from the command line or from a checkpoint's options.

        Raises:
            UserError: a memory option has a value that makes no sense.
        """
        _base(args)  # what an older checkpoint lacks; present values stay
        check_memory_options(args, SENTENCE_ENCODER)
        check_transformer_options(args)
        note_dictionaries(args, task)
        if getattr(args, "max_positions", None) is None:  # as fairseq does it
            if getattr(args, "tokens_per_sample", None) is None:
                args.tokens_per_sample = task.max_positions()
            args.max_positions = args.tokens_per_sample
        model = cls(args, MemRobertaEncoder(args, task.source_dictionary))
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = args.memory_norm_epsilon
        model.freeze_for(args)
        return model

    def freeze_for(self, args: Any) -> None:
        """Apply ``--memory-only``; heads come later, and are trained."""
        super().freeze_for(args)
        memory = self.memory_of(ENCODER)
        if args.memory_frozen and memory is not None and memory.weight is not None:
            memory.weight.requires_grad = False

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Encode ``src_tokens`` (B x T), and predict masked words or classify.

        Args:
            features_only: no masked words: features, B x T x C.
            return_all_hiddens: see :meth:`MemRobertaEncoder.extract_features`.
            classification_head_name: the head to ask, whose logits are B x classes.
            kwargs: ``masked_tokens``, B x T: predict there alone.

        Returns:
            Logits or features, and a dictionary with ``inner_states`` and ``memory``.
        """
        only = features_only or classification_head_name is not None
        x, extra = super().forward(src_tokens, only, return_all_hiddens, **kwargs)
        if classification_head_name is not None:
            head = self.classification_heads[classification_head_name]
            x = head(x, memory=extra.get("memory"))
        return x, extra

    def register_classification_head(
        self, name: str, num_classes: int | None = None, inner_dim: int | None = None, **kwargs: Any
    ) -> None:
        """Register a head as fairseq does, or one that reads memory (``--memory-head``)."""
        super().register_classification_head(name, num_classes, inner_dim, **kwargs)
        if self.args.memory_head == "memory":
            self.classification_heads[name] = MemoryHead(
                self.args.encoder_embed_dim,
                inner_dim=inner_dim or self.args.encoder_embed_dim,
                num_classes=num_classes,
                activation_fn=self.args.pooler_activation_fn,
                pooler_dropout=self.args.pooler_dropout,
                q_noise=self.args.quant_noise_pq,
                qn_block_size=self.args.quant_noise_pq_block_size,
                do_spectral_norm=self.args.spectral_norm_classification_head,
            )

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Fit a checkpoint to this model: memory, segments, masked-word head, pooler and heads.

        Raises:
            UserError: it has segments, and the model has not as many.
        """
        prefix = f"{name}." if name else ""
        place = f"{prefix}classification_heads."
        pooler = {
            part: state_dict.pop(f"{prefix}{POOLER}.{part}", None) for part in ("weight", "bias")
        }
        self._drop_other_heads(state_dict, place)
        fresh = [head for head in self.classification_heads
                 if f"{place}{head}.dense.weight" not in state_dict]  # fmt: skip
        super().upgrade_state_dict_named(state_dict, name)
        self._fit_segments(state_dict, f"{prefix}{ENCODER}")
        self._fit_word_head(state_dict, prefix)
        for head in fresh:
            dense = self.classification_heads[head].dense
            if pooler["weight"] is None or dense.weight.shape != pooler["weight"].shape:
                continue
            logger.info(f"the new classification head {head} begins with BERT's pooler")
            for part, value in pooler.items():
                state_dict[f"{place}{head}.dense.{part}"] = value

    def fit_memory(self, state_dict: dict[str, Any], name: str, place: str) -> None:
        """Memory that a checkpoint has not gets the scale of the text that it embeds."""
        memory = self.memory_of(place)
        if memory is not None and memory.weight is not None and f"{name}.weight" not in state_dict:
            std = embedded_std(state_dict, name.removesuffix(".memory"))
            if std and self.args.memory_init_std is None:
                with torch.no_grad():
                    memory.weight.mul_(std / memory.std)
                memory.std = std
        super().fit_memory(state_dict, name, place)

    def _drop_other_heads(self, state: dict[str, Any], place: str) -> None:
        """Heads that read something else than ours do are not taken over."""
        width = self.args.encoder_embed_dim * (2 if self.args.memory_head == "memory" else 1)
        ends = ".dense.weight"
        for key in [key for key in state if key.startswith(place) and key.endswith(ends)]:
            if state[key].size(1) != width:
                head = key.removesuffix(ends)
                logger.warning(
                    f"the checkpoint's {head} reads something else than memory_head "
                    f"{self.args.memory_head!r} does: it is left out"
                )
                for part in [part for part in state if part.startswith(f"{head}.")]:
                    del state[part]

    def _fit_segments(self, state: dict[str, Any], encoder: str) -> None:
        """A checkpoint without segments gets some of no effect; other numbers are refused."""
        key = f"{encoder}.embed_segments.weight"
        ours = getattr(self.encoder.sentence_encoder, "embed_segments", None)
        wanted = 0 if ours is None else ours.num_embeddings
        found = state[key].size(0) if key in state else 0
        if found not in (0, wanted):
            raise UserError(
                f"the checkpoint has {found} segment embeddings, and memory_segments is {wanted}; "
                f"give --memory-segments {found}"
            )
        if ours is not None and found == 0:
            state[key] = torch.zeros_like(ours.weight)

    def _fit_word_head(self, state: dict[str, Any], prefix: str) -> None:
        """A masked-word head that the checkpoint has not is fresh, one that we have not goes."""
        place = f"{prefix}encoder.lm_head."
        found = [key for key in state if key.startswith(place)]
        if self.encoder.lm_head is None:
            for key in found:
                del state[key]
        elif not found:
            logger.warning("the checkpoint has no head that predicts masked words: it is fresh")
            for key, value in self.encoder.lm_head.state_dict().items():
                state[place + key] = value
            if not self.args.untie_weights_roberta:  # it is the embedding
                state[f"{place}weight"] = state[f"{prefix}{ENCODER}.embed_tokens.weight"]

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: str = "model.pt",
        data_name_or_path: str = ".",
        bpe: str | None = None,
        **kwargs: Any,
    ) -> MemRobertaHub:
        """Load a trained or imported model for use from Python.

        Args:
            model_name_or_path: folder of the checkpoint.
            checkpoint_file: its name.
            data_name_or_path: folder of the binarised data, for its dictionary.
            bpe: fairseq's name of how text becomes words of the dictionary; default: WordPiece
                where a ``tokenizer.json`` lies beside the checkpoint or the data, else none.
            kwargs: options to override.
        """
        from fairseq import hub_utils

        if bpe is None:
            data = os.path.join(model_name_or_path, data_name_or_path)
            tokenizer = find_tokenizer(model_name_or_path, data, data_name_or_path)
            if tokenizer is not None:
                bpe, kwargs["wordpiece_file"] = "wordpiece", str(tokenizer)
        loaded = hub_utils.from_pretrained(
            model_name_or_path, checkpoint_file, data_name_or_path, archive_map={}, bpe=bpe,
            load_checkpoint_heads=True, **kwargs,
        )  # fmt: skip
        return MemRobertaHub(loaded["args"], loaded["task"], loaded["models"][0])


def _is_stock(args: Any) -> bool:
    """Whether the layers have nothing of ours."""
    return (
        args.memory_tokens == 0
        and not has_controls(args)
        and args.memory_update == "shared"
        and not args.memory_positions
        and args.memory_segments == 0
    )


# Presets: fairseq's own sizes and the number of memory tokens.


class _Size:
    """A size with 20 memory tokens; an object of a module's class, so that it can be pickled."""

    def __init__(self, layers: int, width: int, inner: int, heads: int) -> None:
        self.sizes = {
            "encoder_layers": layers,
            "encoder_embed_dim": width,
            "encoder_ffn_embed_dim": inner,
            "encoder_attention_heads": heads,
        }

    def __call__(self, args: Any) -> None:
        set_memory_defaults(args, SENTENCE_ENCODER, memory_tokens=20)
        for name, value in self.sizes.items():
            setattr(args, name, getattr(args, name, value))
        roberta.model.base_architecture(args)


_base = _Size(12, 768, 3072, 12)
for _name, _preset in (
    ("mem_roberta", _base),
    ("mem_roberta_base", _base),
    ("mem_roberta_large", _Size(24, 1024, 4096, 16)),
    ("mem_roberta_small", _Size(4, 128, 512, 8)),
):
    register_model_architecture("mem_roberta", _name)(_preset)
