"""Pieces of which the encoder's and the decoder's layers are made."""

from typing import Any

from fairseq.distributed import fsdp_wrap
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from .attention.fused import build_attention


def wrap_layer(layer: nn.Module, cfg: Any) -> nn.Module:
    """Apply ``--checkpoint-activations`` and fully sharded data parallelism, as fairseq does."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # fairseq shards every layer whose activations are checkpointed, whatever its size
    smallest = 0 if cfg.checkpoint_activations else cfg.min_params_to_wrap
    return fsdp_wrap(layer, min_num_params=smallest)


class ReadingLayer(TransformerEncoderLayerBase):
    """fairseq's encoder layer, same parameters, whose positions may read others than themselves.

    Post-norm, as in the paper:            A = LN(X + MH(X, R, R));          H = LN(A + FF(A))
    pre-norm (--encoder-normalize-before): A = X + MH(LN(X), LN(R), LN(R));  H = A + FF(LN'(A))

    where X are the positions that are updated and R those that are read.

    Args:
        cfg: fairseq's ``TransformerConfig`` with our options.
        lesioned_keys: R's first positions, which a lesion in the encoder hides from X.
    """

    def __init__(self, cfg: Any, lesioned_keys: int = 0) -> None:
        self.lesioned_keys = lesioned_keys
        super().__init__(cfg)

    def build_self_attention(self, embed_dim: int, cfg: Any) -> Any:
        """Hook of fairseq's constructor; ``embed_dim`` is C."""
        # "encoder_decoder_attention" is fairseq's name for keys that are not the queries
        return build_attention(
            cfg,
            "encoder",
            embed_dim,
            lesioned_keys=self.lesioned_keys,
            encoder_decoder_attention=True,
        )

    def read(self, x: Tensor, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """Update ``x`` (T x B x C) by what it reads in ``source`` (S x B x C).

        Args:
            source_padding: B x S, True at padding.
        """
        residual = x
        if self.normalize_before:
            x, source = self.self_attn_layer_norm(x), self.self_attn_layer_norm(source)
        x, _ = self.self_attn(x, source, source, source_padding, need_weights=False)
        x = residual + self.dropout_module(x)
        if not self.normalize_before:
            x = self.self_attn_layer_norm(x)

        residual = x
        if self.normalize_before:
            x = self.final_layer_norm(x)
        x = self.activation_dropout_module(self.activation_fn(self.fc1(x)))
        x = residual + self.dropout_module(self.fc2(x))
        return x if self.normalize_before else self.final_layer_norm(x)
