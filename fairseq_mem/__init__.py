"""Memory tokens for fairseq's Transformers: ``fairseq-train --user-dir fairseq_mem``.

Implements "Memory Transformer" (Burtsev, Kuratov, Peganov, Sapunov; arXiv 2006.11527).
"""

# ruff: noqa: E402 - fairseq may be imported only after the check of its version
import sys

from . import compat

compat.check_versions()
compat.silence_advertisement()
compat.allow_fairseq_checkpoints()
compat.mend_datasets()
compat.mend_metrics()
compat.mend_ngram_blocking()

# Only now, for they import fairseq and torch: what a checkpoint may not do.
from . import checkpoints, literals

checkpoints.guard_fairseq()
literals.guard_fairseq()

# Models, tasks, criteria and optimizers register themselves with fairseq when they are imported.
from .command_line import check_command_line
from .errors import UserError
from .models.mem_roberta import MemRobertaModel
from .models.mem_transformer import MemTransformerModel
from .models.mem_transformer_lm import MemTransformerLanguageModel
from .models.mem_transformer_xl import MemTransformerXLModel
from .tasks.document_translation import DocumentTranslationTask
from .tasks.streaming_language_modeling import StreamingLanguageModelingTask
from .training.criterion import LabelSmoothedCrossEntropyCriterion
from .training.optimizer import FairseqAdam

check_command_line(sys.argv)

__all__ = [
    "DocumentTranslationTask",
    "FairseqAdam",
    "LabelSmoothedCrossEntropyCriterion",
    "MemRobertaModel",
    "MemTransformerLanguageModel",
    "MemTransformerModel",
    "MemTransformerXLModel",
    "StreamingLanguageModelingTask",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> str:
    """The version, which stands where all packages have it.

    It is looked up when it is asked for: fairseq imports this package by its folder's name
    (``--user-dir``), also where nothing else of ours is installed.
    """
    if name == "__version__":
        from fairseq_mem_text.version import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
