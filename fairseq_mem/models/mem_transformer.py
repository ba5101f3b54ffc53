"""fairseq's ``transformer`` with memory tokens: the paper's four models and their sizes."""

import os
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel, transformer_legacy
from torch import Tensor, nn

from ..adaptive_bands import check_bands
from ..attention.controls import has_controls
from ..decoder import MemTransformerDecoder
from ..dictionaries import note_dictionaries
from ..encoder import MemTransformerEncoder
from ..errors import UserError
from ..option_conflicts import check_transformer_options, refuse_training
from ..options import (
    TRANSLATION,
    add_memory_options,
    check_memory_options,
    set_memory_defaults,
)
from .memory_model import MemoryModel


class Translation(NamedTuple):
    """One translated sentence and what the model's memory held after reading it."""

    text: str
    memory: Tensor  # m x C, the first model's of an ensemble


class MemTransformerHub(GeneratorHubInterface):
    """fairseq's hub interface, which also gives the final memory states."""

    def translate(
        self,
        sentences: Any,
        beam: int = 5,
        verbose: bool = False,
        return_memory: bool = False,
        skip_invalid_size_inputs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Translate one raw sentence, or several of them.

        Args:
            sentences: a string, or whatever gives strings.
            beam: hypotheses a sentence in the search.
            verbose: log what fairseq logs of every hypothesis.
            return_memory: give what memory held, too.
            skip_invalid_size_inputs: leave out the sentences that are too long for the model.
            kwargs: other options of ``fairseq-generate``, ``lenpen=0.6`` for one.

        Returns:
            The text, or the list of texts; with ``return_memory`` a :class:`Translation` for each.

        Raises:
            ValueError: a single string is too long and was to be left out.
        """
        if isinstance(sentences, str):
            found = self.translate(
                [sentences], beam, verbose, return_memory, skip_invalid_size_inputs, **kwargs
            )
            if not found:
                raise ValueError(
                    f"the sentence has {len(self.encode(sentences))} tokens and the model takes "
                    f"{self.max_positions[0]}; give it in a list to have it left out"
                )
            return found[0]
        sentences = list(sentences)
        if skip_invalid_size_inputs:  # here, so that what is left goes on in pairs
            sentences = self._short_enough(sentences)
        texts = super().translate(sentences, beam, verbose, **kwargs)
        if not return_memory:
            return texts
        memories = [self.memory_states(sentence) for sentence in sentences]
        return [Translation(*pair) for pair in zip(texts, memories, strict=True)]

    def _short_enough(self, sentences: list[str]) -> list[str]:
        """What fairseq would translate with ``skip_invalid_size_inputs``."""
        tokens = [self.encode(sentence) for sentence in sentences]
        data = self.task.build_dataset_for_inference(tokens, list(map(len, tokens)))
        indices = self.task.filter_indices_by_size(
            data.ordered_indices(), data, self.max_positions, ignore_invalid_inputs=True
        )
        return [sentences[index] for index in sorted(indices)]

    @torch.no_grad()
    def memory_states(self, sentence: str, model: int = 0) -> Tensor:
        """What memory holds behind the encoder's last layer: m x C (0 x C without memory).

        Args:
            sentence: raw text.
            model: which one of an ensemble.
        """
        encoder = self.models[model].encoder
        tokens = self.encode(sentence).unsqueeze(0).to(self.device)
        encoder_out = encoder(tokens, src_lengths=None)
        if not isinstance(encoder, MemTransformerEncoder):
            return encoder_out["encoder_out"][0][:0, 0]
        return encoder.split_memory(encoder_out)[0][:, 0]


@register_model("mem_transformer")
class MemTransformerModel(MemoryModel, TransformerModel):
    """fairseq's ``transformer`` with trainable memory tokens (arXiv 2006.11527).

    At ``--memory-tokens 0`` (and update ``shared``) it is built of fairseq's own encoder and
    decoder, and nothing of ours runs.
    """

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add fairseq's options for ``transformer`` and ours."""
        super().add_args(parser)
        add_memory_options(parser, TRANSLATION)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "MemTransformerModel":
        """Build the model, from the command line or from a checkpoint's options.

        Raises:
            UserError: a memory option has a value that makes no sense.
        """
        _base(args)  # what an older checkpoint lacks; present values stay
        check_memory_options(args, TRANSLATION)
        check_transformer_options(args)
        if args.adaptive_softmax_cutoff is not None:
            check_bands(
                "softmax", args.adaptive_softmax_cutoff, len(task.target_dictionary),
                _output_dim(args), getattr(args, "adaptive_softmax_factor", 4),
            )  # fmt: skip
        if args.memory_recurrence > 0 and not getattr(task, "carries_memory", False):
            raise UserError(
                f"memory_recurrence is {args.memory_recurrence}, and this task translates sentence "
                "by sentence; give --task document_translation (at inference also "
                "--model-overrides \"{'memory_recurrence': 0}\": fresh memory for every sentence)"
            )
        note_dictionaries(args, task)
        _keep_both_sides(args)
        model = super().build_model(args, task)
        model.freeze_for(args)
        if _is_fairseqs(args) and not getattr(task, "carries_memory", False):
            # Ours can be refused, and takes what documents need: TorchScript knows neither.
            model.forward = MethodType(TransformerModel.forward, model)
        return model

    @classmethod
    def build_encoder(cls, cfg: Any, src_dict: Any, embed_tokens: Any) -> Any:
        """Build fairseq's encoder, or ours where there is memory."""
        if _is_stock(cfg):
            return super().build_encoder(cfg, src_dict, embed_tokens)
        return MemTransformerEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg: Any, tgt_dict: Any, embed_tokens: Any) -> Any:
        """Build fairseq's decoder, or ours where the encoder or the decoder has memory."""
        if _is_stock(cfg) and cfg.memory_decoder_tokens == 0:
            return super().build_decoder(cfg, tgt_dict, embed_tokens)
        return MemTransformerDecoder(cfg, tgt_dict, embed_tokens, cfg.no_cross_attention)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None,
        prev_output_tokens: Tensor,
        steps: Sequence[int] | None = None,
        memory: Mapping[nn.Module, Tensor] | None = None,
        **options: Any,
    ) -> Any:
        """fairseq's, and for sentences of documents: see :meth:`MemTransformerEncoder.forward`.

        Args:
            src_tokens: B x T.
            src_lengths: B, in tokens.
            prev_output_tokens: B x T', the target shifted right.
            steps: how many of the rows are documents' first, second, ... sentences.
            memory: for each encoder m x B x C, what memory begins as.
            options: fairseq's.

        Returns:
            Logits (B x T' x V), and what else fairseq's decoder gives.
        """
        if steps is None and memory is None:
            return super().forward(src_tokens, src_lengths, prev_output_tokens, **options)
        if self.training:
            refuse_training(self.args)
        options.pop("return_all_hiddens", None)
        encoder_out = self.encoder(src_tokens, src_lengths, steps=steps, memory=memory)
        return self.decoder(
            prev_output_tokens, encoder_out=encoder_out, src_lengths=src_lengths, **options
        )

    def set_beam_size(self, beam_size: int) -> None:
        """Hook of fairseq's generator: hypotheses come in groups of ``beam_size`` a sentence."""
        if isinstance(self.encoder, MemTransformerEncoder):
            self.encoder.beam_size = beam_size

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: str = "model.pt",
        data_name_or_path: str = ".",
        **kwargs: Any,
    ) -> MemTransformerHub:
        """Load a trained model for use from Python.

        Args:
            model_name_or_path: folder of the checkpoint.
            checkpoint_file: its name, or several joined by ``os.pathsep`` for an ensemble.
            data_name_or_path: folder of the binarised data, for its dictionaries; BPE codes in it
                (a file named ``code``) are used if none are given.
            kwargs: options to override, ``tokenizer="moses", bpe="subword_nmt"`` for one.
        """
        codes = os.path.join(data_name_or_path, "code")
        if not data_name_or_path.startswith(".") and os.path.exists(codes):
            kwargs.setdefault("bpe_codes", codes)
        hub = super().from_pretrained(
            model_name_or_path, checkpoint_file, data_name_or_path, **kwargs
        )
        return MemTransformerHub(hub.cfg, hub.task, hub.models)


def _is_stock(cfg: Any) -> bool:
    """Whether the encoder has nothing of ours."""
    plain = cfg.memory_tokens == 0 and cfg.memory_update == "shared" and not cfg.memory_positions
    return plain and not has_controls(cfg)


def _output_dim(args: Any) -> int:
    """``--decoder-output-dim``, which fairseq's parser leaves a text.

    Raises:
        UserError: it is no number.
    """
    try:
        return int(args.decoder_output_dim)
    except ValueError:
        raise UserError(
            f"decoder_output_dim is {args.decoder_output_dim!r}; give a whole number of 1 or more"
        ) from None


def _is_fairseqs(args: Any) -> bool:
    """Whether nothing of ours is there to run, nor anything that may not be trained."""
    return _is_stock(args) and args.memory_decoder_tokens == 0 and args.memory_lesion == "none"


def _keep_both_sides(args: Any) -> None:
    """Where layers of one side are kept (layer drop), say that the other side keeps all of its own.

    fairseq's pruning of a checkpoint would leave the other side without any.
    """
    for pruned, whole in (("encoder", "decoder"), ("decoder", "encoder")):
        option = f"{whole}_layers_to_keep"
        if getattr(args, f"{pruned}_layers_to_keep", None) and not getattr(args, option, None):
            setattr(args, option, ",".join(map(str, range(getattr(args, f"{whole}_layers")))))


# Presets: fairseq's own sizes, the number of memory tokens, and the update.


def _base(args: Any) -> None:
    """The paper's base size: 6 layers, d 512, d_ff 2048, 8 heads, 20 memory tokens."""
    set_memory_defaults(args, TRANSLATION, memory_tokens=20)
    transformer_legacy.base_architecture(args)


def _small(args: Any) -> None:
    """The paper's small size: 4 layers, d 128, d_ff 512, 8 heads, 10 memory tokens."""
    set_memory_defaults(args, TRANSLATION, memory_tokens=10)
    for side in ("encoder", "decoder"):
        for name, value in (
            ("layers", 4),
            ("embed_dim", 128),
            ("ffn_embed_dim", 512),
            ("attention_heads", 8),
        ):
            option = f"{side}_{name}"
            setattr(args, option, getattr(args, option, value))
    transformer_legacy.base_architecture(args)


def _iwslt_de_en(args: Any) -> None:
    """fairseq's ``transformer_iwslt_de_en`` with 10 memory tokens."""
    set_memory_defaults(args, TRANSLATION, memory_tokens=10)
    transformer_legacy.transformer_iwslt_de_en(args)


def _wmt_de_en(args: Any) -> None:
    """fairseq's ``transformer_wmt_en_de`` with 20 memory tokens."""
    set_memory_defaults(args, TRANSLATION, memory_tokens=20)
    transformer_legacy.transformer_wmt_en_de(args)


def _big(args: Any) -> None:
    """fairseq's ``transformer_vaswani_wmt_en_de_big`` with 20 memory tokens."""
    set_memory_defaults(args, TRANSLATION, memory_tokens=20)
    transformer_legacy.transformer_vaswani_wmt_en_de_big(args)


class _Preset:
    """A size with an update; an object of a module's class, so that it can be pickled."""

    def __init__(self, size: Callable[[Any], None], update: str) -> None:
        self.size, self.update = size, update

    def __call__(self, args: Any) -> None:
        args.memory_update = getattr(args, "memory_update", self.update)
        self.size(args)


_SIZES = {"": _base, "_small": _small, "_iwslt_de_en": _iwslt_de_en}
for _model, _update, _sizes in (
    ("mem_transformer", "shared", {**_SIZES, "_wmt_de_en": _wmt_de_en, "_big": _big}),
    ("mem_ctrl_transformer", "ctrl", _SIZES),
    ("mem_ctrl_shared_transformer", "ctrl-shared", _SIZES),
    ("mem_bottleneck_transformer", "bottleneck", _SIZES),
):
    for _name, _size in _sizes.items():
        register_model_architecture("mem_transformer", _model + _name)(_Preset(_size, _update))
