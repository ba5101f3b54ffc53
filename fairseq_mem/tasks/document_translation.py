"""``--task document_translation``: fairseq's ``translation`` over documents.

``SPLIT.documents`` beside the binarised data says which sentences belong together
(``streaming/documents.py``). In training an item is a window of consecutive sentences of a
document: shuffling, batches by tokens, workers, GPUs, ``--update-freq`` and resuming are fairseq's
own. With ``--memory-recurrence K`` a window has K sentences, memory begins as what the sentences in
front of it hand on, without gradient, and is handed on within it. Validation and decoding read
every document from its beginning to its end, and go on in fairseq's own batches of sentences.
"""

# ruff: noqa: UP045
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional
from weakref import WeakKeyDictionary

import numpy as np
from fairseq import utils
from fairseq.data import ConcatDataset, LanguagePairDataset
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II

from ..errors import UserError
from ..streaming.documents import (
    ENDING,
    DocumentPairs,
    Documents,
    Windows,
    WithContext,
    read_documents,
)
from ..streaming.remembered import Remembered, read_in_front, remember

logger = logging.getLogger(__name__)

READ_BEFORE = 8  # sentences; memory that is never older than a window fails in long documents
ENDLESS = 5000  # sentences of a document, from which on reading them one by one is worth a word


@dataclass
class DocumentTranslationConfig(TranslationConfig):
    """The task's options."""

    # fairseq's parser knows Optional[...], not ... | None
    window_sentences: Optional[int] = field(
        default=None,
        metadata={"help": "sentences of a document that a training sample has; --batch-size counts "
                          "samples (default: --memory-recurrence; 1 without)"},
    )  # fmt: skip
    context_sentences: Optional[int] = field(
        default=None,
        metadata={"help": "put N previous source sentences of the document in front of each, the "
                          "end mark between them (default: none; in evaluation as in training)"},
    )  # fmt: skip
    read_before: Optional[int] = field(
        default=None,
        metadata={"help": "in training, memory begins as what the N sentences in front of the "
                          "window hand on, which are read without gradient (default: "
                          f"{READ_BEFORE} where memory is handed on; 0: it begins fresh)"},
    )  # fmt: skip
    seed: int = II("common.seed")


@register_task("document_translation", dataclass=DocumentTranslationConfig)
class DocumentTranslationTask(TranslationTask):
    """Translation of documents, by models that hand memory on, and by others in equal batches."""

    carries_memory = True  # the model asks

    def __init__(self, cfg: Any, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        for name, least in (
            ("window_sentences", 1),
            ("context_sentences", 0),
            ("read_before", 0),
        ):
            value = getattr(cfg, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}; give a whole number of {least} or more")
        for name in ("load_alignments", "num_batch_buckets"):
            if getattr(cfg, name):
                raise UserError(
                    f"--{name.replace('_', '-')} does not go with --task document_translation, "
                    "whose samples are several sentences; leave it out"
                )
        self.recurrence = 0
        self.longest = cfg.max_source_positions
        self.hands_on = False  # the model that was built last
        # of the encoders in use, by the split's name
        self._remembered: WeakKeyDictionary[Any, dict[str, Remembered]] = WeakKeyDictionary()

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model, whose recurrence says how many sentences a window has."""
        model = super().build_model(cfg, from_checkpoint)
        self.recurrence = getattr(cfg, "memory_recurrence", 0)
        self.longest = min(self.longest, model.max_positions()[0])
        self.hands_on = is_recurrent(model)
        if self.hands_on and self.window == 1:
            name = "window_sentences" if self.cfg.window_sentences else "memory_recurrence"
            logger.warning(
                f"{name} is 1, the sentence itself: no gradient reaches what sentences before it "
                "have written, so writing is not trained; give 2 or more for that"
            )
        if self.cfg.read_before and not self.hands_on:
            logger.warning(
                f"read_before is {self.cfg.read_before}, and this model hands nothing on, so "
                "nothing is read; give --memory-recurrence, or leave --read-before out"
            )
        return model

    @property
    def read_before(self) -> int:
        """Sentences that are read in front of a training sample, if memory is handed on."""
        return READ_BEFORE if self.cfg.read_before is None else self.cfg.read_before

    @property
    def window(self) -> int:
        """Sentences of a training sample."""
        return self.cfg.window_sentences or max(1, self.recurrence)

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load a split and its documents; fairseq's trainer alone asks to ``combine``.

        Raises:
            UserError: the file of the documents does not fit the split.
        """
        super().load_dataset(split, epoch, combine, **kwargs)
        pairs = self.datasets[split]
        if len(pairs) == 0:
            raise UserError(f"the split {split!r} is empty; binarise some text for it")
        documents = self._documents(split, epoch, pairs)
        context = self.cfg.context_sentences
        if context is None:
            context = getattr(kwargs.get("task_cfg"), "context_sentences", None) or 0
        sentences = DocumentPairs(
            in_context(pairs, documents, context, self.longest), documents, split
        )
        self._remembered.clear()
        if combine:
            self.datasets[split] = Windows(
                sentences, self.window, self.cfg.seed, self.hands_on, self.read_before,
                self.longest,
            )  # fmt: skip
        else:
            self.datasets[split] = sentences

    def _documents(self, split: str, epoch: int, pairs: LanguagePairDataset) -> Documents:
        """Those of a split, or of all its parts (train, train1, ...)."""
        paths = utils.split_paths(self.cfg.data)
        folder = Path(paths[(epoch - 1) % len(paths) if split == self.cfg.train_subset else 0])
        parts = [pairs.src]
        if isinstance(pairs.src, ConcatDataset):
            parts = pairs.src.datasets
            if any(ratio != 1 for ratio in pairs.src.sample_ratios):
                raise UserError(
                    f"--upsample-primary {self.cfg.upsample_primary} would read documents several "
                    "times in a row; give --upsample-primary 1"
                )
        found = [
            read_documents(folder / f"{split}{number or ''}{ENDING}", len(part))
            for number, part in enumerate(parts)
        ]
        documents = Documents(np.concatenate([part.lengths for part in found]))
        longest = int(documents.lengths.max())
        logger.info(
            f"{split}: {len(documents):,} documents of 1 to {longest:,} sentences"
            if longest > 1
            else f"{split}: every sentence is a document ({folder / (split + ENDING)} says more)"
        )
        if longest >= ENDLESS:
            logger.warning(
                f"{split} has a document of {longest:,} sentences: outside of training they are "
                "read one by one; if it is no document, mend the documents file"
            )
        return documents

    def train_step(self, sample: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Hook of fairseq's trainer; what was remembered is of another model now."""
        self._remembered.clear()
        before = sample.get("before")
        if before is not None:
            model.train()
            windows = sample["net_input"]["steps"][0]
            begins = read_in_front(model.encoder, windows, before)
            inputs = {**sample["net_input"], "memory": {model.encoder: begins}}
            sample = {**sample, "net_input": inputs}
        return super().train_step(sample, model, *args, **kwargs)

    def valid_step(self, sample: Any, model: Any, criterion: Any, **kwargs: Any) -> Any:
        """Hook of fairseq's trainer."""
        return super().valid_step(self.with_memory(sample, [model]), model, criterion, **kwargs)

    def inference_step(
        self, generator: Any, models: Any, sample: Any, prefix_tokens: Any = None,
        constraints: Any = None,
    ) -> Any:  # fmt: skip
        """Hook of ``fairseq-generate``."""
        sample = self.with_memory(sample, models)
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)

    def with_memory(self, sample: dict[str, Any], models: Sequence[Any]) -> dict[str, Any]:
        """The batch, each sentence of which begins with the memory that its document hands it.

        Sentences of no split (``build_dataset_for_inference``) begin with the trained memory.

        Raises:
            UserError: an ensemble of models that hand memory on and of such that do not.
        """
        split = sample.get("split")
        if split is None:
            return sample
        kinds = {is_recurrent(model) for model in models}
        if len(kinds) > 1:
            raise UserError(
                "an ensemble has models that hand memory on and models that do not; give models of "
                "one kind"
            )
        inputs = {name: value for name, value in sample["net_input"].items() if name != "steps"}
        if kinds == {True}:
            inputs["memory"] = {
                model.encoder: self.remembered(model, split).before(sample["id"])
                for model in models
            }
        return {**sample, "net_input": inputs}

    def remembered(self, model: Any, split: str) -> Remembered:
        """Memory before every sentence of a split; documents are read the first time.

        Args:
            model: one that hands memory on.
            split: a loaded one.
        """
        of_encoder = self._remembered.setdefault(model.encoder, {})
        if split not in of_encoder:
            dataset = self.datasets[split]
            sentences = dataset.pairs if isinstance(dataset, Windows) else dataset
            training = model.encoder.training
            model.encoder.eval()
            of_encoder[split] = remember(
                model.encoder,
                sentences.dataset.src,
                sentences.dataset.src_sizes,
                sentences.documents,
            )
            model.encoder.train(training)
        return of_encoder[split]


def is_recurrent(model: Any) -> bool:
    """Whether a model has memory that it hands on."""
    return bool(getattr(model.encoder, "recurrent", False))


def in_context(
    pairs: LanguagePairDataset, documents: Documents, count: int, longest: int
) -> LanguagePairDataset:
    """The pairs, with ``count`` sentences in front of each source (see ``WithContext``)."""
    if count == 0:
        return pairs
    source = WithContext(pairs.src, pairs.src_sizes, documents, count, longest)
    return LanguagePairDataset(
        source, source.sizes, pairs.src_dict, pairs.tgt, pairs.tgt_sizes, pairs.tgt_dict,
        left_pad_source=pairs.left_pad_source, left_pad_target=pairs.left_pad_target,
        eos=pairs.eos, shuffle=pairs.shuffle, pad_to_multiple=pairs.pad_to_multiple,
    )  # fmt: skip
