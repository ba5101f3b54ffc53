"""Small models and batches for the tests, built through fairseq's own registries."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import Tensor

import fairseq_mem  # noqa: F401  (registers the architectures)

WORDS = 20
EXACT = dict(rtol=0, atol=1e-10)  # for torch.testing.assert_close, in float64
SMALL = dict(
    encoder_layers=2, decoder_layers=2, encoder_embed_dim=16, decoder_embed_dim=16,
    encoder_ffn_embed_dim=24, decoder_ffn_embed_dim=24, encoder_attention_heads=2,
    decoder_attention_heads=2, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def dictionary(words: int = WORDS) -> Dictionary:
    """A dictionary of some words, beside fairseq's four special symbols."""
    made = Dictionary()
    for number in range(words):
        made.add_symbol(f"w{number}")
    return made


def task() -> SimpleNamespace:
    """All that a model asks of its task."""
    shared = dictionary()
    return SimpleNamespace(
        source_dictionary=shared,
        target_dictionary=shared,
        gives_streams=True,
        carries_memory=True,
    )


def build(arch: str = "mem_transformer", seed: int = 1, double: bool = True, **options: Any) -> Any:
    """A small model, in float64 and evaluation mode; ``options`` as on the command line."""
    torch.manual_seed(seed)
    args = Namespace(**{**SMALL, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task()).eval()
    if double:
        model.double()
    # biases and layer norms start at 0 and 1, where mistakes hide
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def sentences(lengths: list[int], left_pad: bool = False, seed: int = 0) -> Tensor:
    """Random sentences that end in </s>, padded to one length: B x T."""
    made = dictionary()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), made.pad())
    for row, length in enumerate(lengths):
        words = torch.randint(made.nspecial, len(made), (length,), generator=generator)
        words[-1] = made.eos()
        if left_pad:
            tokens[row, max(lengths) - length :] = words
        else:
            tokens[row, :length] = words
    return tokens


def shifted(target: Tensor) -> Tensor:
    """The decoder's input for a target that is padded on the right: </s> in front, last one off."""
    made = dictionary()
    rows = torch.full_like(target, made.pad())
    rows[:, 0] = made.eos()
    body = target[:, :-1]
    rows[:, 1:] = torch.where(body == made.eos(), made.pad(), body)
    return rows


def logits(model: Any, source: Tensor, previous: Tensor) -> Tensor:
    """Teacher-forced logits, B x T x V."""
    return model(source, source.ne(model.encoder.padding_idx).sum(1), previous)[0]


def assert_padding_changes_nothing(
    model: Any, source: Tensor, target: Tensor, **tolerance: float
) -> None:
    """The logits of a batch (B x T each) are those of every sentence alone."""
    pad = model.encoder.padding_idx
    whole = logits(model, source, shifted(target))
    for row in range(source.size(0)):
        words = target[row][target[row].ne(pad)][None]
        alone = logits(model, source[row][source[row].ne(pad)][None], shifted(words))
        torch.testing.assert_close(whole[row : row + 1, : words.size(1)], alone, **tolerance)
