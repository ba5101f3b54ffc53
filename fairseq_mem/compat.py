"""Which fairseq and torch we work with, and what torch's safe loader may load.

Looks only at the installed packages' metadata: PyPI's ``fairseq`` 0.12.2 does not even import on
Python 3.11 (https://github.com/facebookresearch/fairseq/issues/5012), so the check must come
before the first ``import fairseq``.
"""

import argparse
import logging
from collections import defaultdict
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

from .errors import UserError

FAIRSEQ = "fairseq-fixed"
FAIRSEQ_VERSION = "0.12.3.1"
TORCH_MINIMUM = (2, 6)


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_versions() -> None:
    """Refuse a fairseq or a torch that we cannot work with.

    Raises:
        UserError: PyPI's ``fairseq`` is in the way, ``fairseq-fixed`` is missing or another
            version than the tested one, or torch is older than 2.6.
    """
    stock, fixed, torch_version = map(_installed, ("fairseq", FAIRSEQ, "torch"))
    remedy = f"pip install --no-build-isolation {FAIRSEQ}=={FAIRSEQ_VERSION}"
    if stock is not None:
        raise UserError(
            f"the package fairseq {stock} is installed, which has the same folder as {FAIRSEQ} and "
            f"does not work on this Python; run: pip uninstall -y fairseq {FAIRSEQ} && {remedy}"
        )
    if fixed != FAIRSEQ_VERSION:
        found = "none is installed" if fixed is None else f"{fixed} is installed"
        raise UserError(f"needs {FAIRSEQ} {FAIRSEQ_VERSION}, {found}; run: {remedy}")
    minimum = ".".join(map(str, TORCH_MINIMUM))
    if torch_version is None:
        raise UserError(f'needs torch, none is installed; run: pip install "torch>={minimum}"')
    if tuple(int(part) for part in torch_version.split(".")[:2]) < TORCH_MINIMUM:
        raise UserError(
            f"needs torch {minimum} or newer, {torch_version} is installed; run: "
            f'pip install --upgrade "torch>={minimum}"'
        )


def silence_advertisement() -> None:
    """Keep fairseq from telling whoever imports it to install tensorboardX for speech."""
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)


def allow_fairseq_checkpoints() -> None:
    """Let torch's safe loader read what fairseq writes: the options.

    fairseq calls ``torch.load`` without ``weights_only``, which torch 2.6 switched on. In a file
    the options are an ``argparse.Namespace``, the one class in fairseq's checkpoints that the safe
    loader does not know (https://github.com/facebookresearch/fairseq/issues/5603). Where several
    workers resume, the first reads the file and sends it to the others: with omegaconf's objects
    for the options, and a placeholder of fairseq's for every tensor. Of that exactly the classes
    that such a message names are allowed. All of them only hold data; the safe loader stays on,
    and a checkpoint that holds anything else, a hostile pickle for one, is still refused.
    """
    import torch
    from fairseq.distributed.utils import _TensorPlaceholder
    from omegaconf import AnyNode, DictConfig, ListConfig
    from omegaconf.base import ContainerMetadata, Metadata

    torch.serialization.add_safe_globals(
        [argparse.Namespace, _TensorPlaceholder, DictConfig, ListConfig, AnyNode]
    )
    # what omegaconf's objects name: the types of keys and values, and an empty cache
    torch.serialization.add_safe_globals(
        [ContainerMetadata, Metadata, Any, dict, list, int, defaultdict]
    )


class With:
    """A module with some names replaced, for one module that uses it."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def mend_datasets() -> None:
    """Let fairseq's datasets work with numpy 2, which has no ``np.compat.long``.

    Without it ``fairseq-generate`` and ``fairseq-interactive`` fail for every language model.
    """
    import numpy
    from fairseq.data import language_pair_dataset, token_block_dataset

    if not hasattr(numpy, "compat"):
        for module in (language_pair_dataset, token_block_dataset):
            module.np = With(numpy, compat=SimpleNamespace(long=int))


def mend_metrics() -> None:
    """Let the metrics of ``sentence_prediction`` be Python's numbers, not numpy's.

    fairseq saves them in every checkpoint, where the safe loader refuses numpy's: with
    ``--report-mcc`` and the like no checkpoint could be loaded again.
    """
    from fairseq.criterions import sentence_prediction
    from fairseq.logging.meters import safe_round

    def rounded(number: Any, digits: int) -> float:
        return float(safe_round(number, digits))

    sentence_prediction.safe_round = rounded


def mend_ngram_blocking() -> None:
    """Make ``--no-repeat-ngram-size`` work without fairseq's CUDA extension.

    fairseq looks for the end of its buffer, which is padding up to the last step, instead of the
    newest words (https://github.com/facebookresearch/fairseq/issues/5206).
    """
    from fairseq.ngram_repeat_block import NGramRepeatBlock
    from torch import Tensor

    def ban_repeats(
        self: NGramRepeatBlock, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int
    ) -> Tensor:
        """Give -inf, in place, to the words that would end an n-gram that is there already.

        What a prefix forces stays: nothing is banned where nothing else would be left.

        Args:
            tokens: B x S: a start symbol, words up to position ``step``, padding.
            lprobs: B x V.
        """
        size = self.no_repeat_ngram_size
        words = tokens[:, 1 : step + 1]
        if words.size(1) < size:
            return lprobs
        ngrams = words.unfold(1, size, 1)  # B x N x size
        newest = words[:, words.size(1) - size + 1 :].unsqueeze(1)  # B x 1 x (size-1)
        found = (ngrams[:, :, :-1] == newest).all(dim=2).nonzero()
        rows, banned = found[:, 0], ngrams[found[:, 0], found[:, 1], size - 1]
        before = lprobs[rows, banned]
        lprobs[rows, banned] = -float("inf")
        stuck = lprobs.amax(dim=1)[rows] == -float("inf")
        lprobs[rows[stuck], banned[stuck]] = before[stuck]
        return lprobs

    NGramRepeatBlock._no_repeat_ngram = ban_repeats
