"""Attention weights of a model at work, by one door for all models.

    with recording(model) as maps:
        model(...)
    maps["encoder.layers.0.self_attn"][0]  # H x B x T x S

The modules that compute the output are told to give their weights; nothing computes them a second
time.
"""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from .relative import RelativeAttention

Maps = dict[str, list[Tensor]]


@contextmanager
def recording(model: nn.Module) -> Iterator[Maps]:
    """Record the attention weights of every module of ``model``, ours and fairseq's.

    Memory's rows and columns are included: memory comes first, in front of the text. Rows sum to
    one and what is masked is exactly zero; under a zero-read lesion what it zeroes is missing from
    the sums, and a row without any key is zero. Step by step there is a map for every step, whose
    keys, in beam search, are position by position those of all hypotheses of a sentence.

    Yields:
        For each module, by name, a map for each call in their order: H x B x T x S, detached.
    """
    maps: Maps = defaultdict(list)
    with ExitStack() as undo:
        for name, module in model.named_modules():
            if isinstance(module, RelativeAttention):
                module.recorder = partial(_note, maps[name])
                undo.callback(setattr, module, "recorder", None)
            elif isinstance(module, MultiheadAttention):
                _ask_for_weights(module, maps[name], undo)
        yield maps


def _note(maps: list[Tensor], weights: Tensor) -> None:
    maps.append(weights.detach())


def _ask_for_weights(module: MultiheadAttention, maps: list[Tensor], undo: ExitStack) -> None:
    """Have a module compute its heads' weights, and give its caller what that has asked for."""
    signature = inspect.signature(module.forward)
    asked: list[tuple[bool, bool]] = []  # a module may be called again while it is called

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        given = signature.bind(*args, **kwargs).arguments
        asked.append((given.get("need_weights", True), given.get("need_head_weights", False)))
        return (), {**given, "need_weights": True, "need_head_weights": True}

    def after(_: nn.Module, args: Any, kwargs: Any, result: Any) -> tuple[Tensor, Tensor | None]:
        out, weights = result
        need_weights, need_head_weights = asked.pop()
        _note(maps, weights)
        if need_head_weights or getattr(module, "offers_weights", False):
            return out, weights
        return out, weights.mean(dim=0) if need_weights else None

    # fairseq's own takes torch's path, which averages over heads, unless it is told of odd sizes
    undo.callback(setattr, module, "skip_embed_dim_check", module.skip_embed_dim_check)
    module.skip_embed_dim_check = True
    for handle in (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ):
        undo.callback(handle.remove)
