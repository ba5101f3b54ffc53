"""``--task streaming_language_modeling``: language modelling over contiguous rows.

For ``mem_transformer_xl``. The training text is cut into ``--batch-size`` rows a worker, which are
read from their beginning to their end once an epoch. Every batch says where in its rows it is, so
that the model knows what goes on and what begins: an epoch and a validation begin with an empty
cache, and validation leaves training's cache alone. Checkpoints in the middle of an epoch hold the
state of the rows, and training resumes from them as if it had not been interrupted.
"""

# ruff: noqa: UP045
import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.data import Dictionary, data_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from ..command_line import refuse_context_window
from ..errors import UserError
from ..streaming.batches import Rows, StreamBatches, TokenStream, check_length
from ..streaming.resuming import StreamIterator, StreamPlace

logger = logging.getLogger(__name__)


@dataclass
class StreamingLanguageModelingConfig(FairseqDataclass):
    """The task's options."""

    # fairseq's parser knows Optional[...], not ... | None
    data: Optional[str] = field(default=None, metadata={"help": "folder of the binarised data"})
    tokens_per_sample: Optional[int] = field(
        default=None,
        metadata={"help": "length of a segment (default: the architecture's; in evaluation that "
                          "of training)"},
    )  # fmt: skip
    self_target: bool = field(default=False, metadata={"help": "refused: it has been read"})
    past_target: bool = field(default=False, metadata={"help": "refused: it has been read"})
    future_target: bool = field(default=False, metadata={"help": "what is predicted anyway"})
    batch_size: Optional[int] = II("dataset.batch_size")


@register_task("streaming_language_modeling", dataclass=StreamingLanguageModelingConfig)
class StreamingLanguageModelingTask(FairseqTask):
    """Language modelling over contiguous rows of text, for models that say what they remember."""

    gives_streams = True  # the model asks

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        for name in ("self_target", "past_target"):
            if getattr(cfg, name, False):
                raise UserError(
                    f"--{name.replace('_', '-')} asks for words that a causal model, its memory "
                    "and its cache have already read; leave it out"
                )
        if cfg.tokens_per_sample is not None and cfg.tokens_per_sample < 1:
            raise UserError(
                f"tokens_per_sample is {cfg.tokens_per_sample}; it is the segment's length, give "
                "a whole number of 1 or more"
            )
        folder = utils.split_paths(cfg.data or "")[:1]
        path = os.path.join(folder[0] if folder else "", "dict.txt")
        if not os.path.exists(path):
            raise UserError(
                f"{path} does not exist; binarise with fairseq-preprocess --only-source"
            )
        self.dictionary = Dictionary.load(path)
        logger.info(f"dictionary: {len(self.dictionary)} types")
        self.segment = self.piece = cfg.tokens_per_sample
        self.cache_length = 0
        self.decoder: Any = None
        self.place = StreamPlace()

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; segment and cache length are what it was trained with, or is told to.

        Raises:
            UserError: another architecture than ours, no batch size for training, recurrence
                without memory.
        """
        if not from_checkpoint:
            if self.cfg.batch_size is None:
                raise UserError(
                    "--task streaming_language_modeling needs --batch-size: how many rows of the "
                    "text each worker reads side by side"
                )
            if getattr(cfg, "memory_recurrence", 0) and not getattr(cfg, "memory_tokens", 0):
                raise UserError(
                    f"memory_recurrence {cfg.memory_recurrence} has nothing to hand on with 0 "
                    "memory tokens; give --memory-tokens, or leave it out"
                )
            if getattr(cfg, "memory_recurrence", 0) == 1:
                logger.warning(
                    "memory_recurrence is 1, the segment itself: no gradient reaches what segments "
                    "before it have written, so writing is not trained; give 2 or more for that"
                )
        if getattr(cfg, "memory_recurrence", None) is None:
            raise UserError(
                "--task streaming_language_modeling is for mem_transformer_xl, whose cache reads "
                "rows on and on; other language models take --task language_modeling"
            )
        model = super().build_model(cfg, from_checkpoint)
        self.decoder = model.decoder
        self.place.streams = model.decoder.streams
        self.segment = self.cfg.tokens_per_sample or cfg.tokens_per_sample
        self.piece = self.segment * max(1, cfg.memory_recurrence)
        self.cache_length = cfg.cache_length
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the criterion.

        Raises:
            UserError: an adaptive loss for a model without an adaptive softmax, or the reverse.
        """
        adaptive = self.decoder is not None and self.decoder.adaptive_softmax is not None
        if adaptive != (getattr(cfg, "_name", None) == "adaptive_loss"):
            raise UserError(
                "the model's adaptive softmax needs --criterion adaptive_loss --ddp-backend "
                "legacy_ddp; or give --adaptive-softmax-cutoff '' for one softmax over all words"
                if adaptive
                else "--criterion adaptive_loss needs --adaptive-softmax-cutoff below the "
                f"{len(self.dictionary)} words of the dictionary; or take --criterion cross_entropy"
            )
        return super().build_criterion(cfg, from_checkpoint)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Load a split; ``epoch`` chooses among several data folders, as in fairseq."""
        paths = utils.split_paths(self.cfg.data)
        path = os.path.join(paths[(kwargs.get("epoch", 1) - 1) % len(paths)], split)
        sentences = data_utils.load_indexed_dataset(path, self.dictionary, combine=combine)
        if sentences is None:
            raise UserError(f"there is no split {split!r} in {os.path.dirname(path)}")
        if getattr(sentences, "supports_prefetch", False):  # --dataset-impl cached or lazy
            sentences.prefetch(range(len(sentences)))
        self.datasets[split] = TokenStream(split, sentences, self.dictionary.eos())

    def get_batch_iterator(
        self, dataset: TokenStream, max_sentences: int | None = None, num_shards: int = 1,
        shard_id: int = 0, num_workers: int = 0, epoch: int = 1, data_buffer_size: int = 0,
        skip_remainder_batch: bool = False, **unused: Any,
    ) -> StreamIterator:  # fmt: skip
        """Batches in the order of the text; ``max_sentences`` rows a worker, default 1.

        Raises:
            UserError: too little text for so many rows.
        """
        rows = Rows(max_sentences or 1, num_shards, shard_id)
        check_length(dataset, rows, self.segment, self.cache_length)
        batches = StreamBatches(dataset, rows, self.piece, self.segment, self.dictionary.pad())
        return StreamIterator(
            self.place,
            dataset=batches,
            collate_fn=batches.collater,
            batch_sampler=[[number] for number in range(len(batches))],
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            disable_shuffling=True,
            skip_remainder_batch=skip_remainder_batch,
        )

    def train_step(self, sample: Any, model: Any, criterion: Any, optimizer: Any, *args: Any,
                   **kwargs: Any) -> Any:  # fmt: skip
        """Hook of fairseq's trainer, for every batch of an update.

        Where an update's gradient overflows under ``--amp``, the trainer repeats all of its
        batches: the rows' state then goes back to where the update began.
        """
        # no parameter has a gradient: an update begins
        if isinstance(optimizer, AMPOptimizer) and all(p.grad is None for p in model.parameters()):
            self.place.begin_update(sample["net_input"]["position"])
        return super().train_step(sample, model, criterion, optimizer, *args, **kwargs)

    def eval_lm_dataloader(
        self, dataset: TokenStream, batch_size: int | None = None, context_window: int = 0,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Hook of ``fairseq-eval-lm``; without ``--batch-size`` the text is one row.

        Raises:
            UserError: ``--context-window``, of which the cache is the better form.
        """
        if context_window > 0:
            refuse_context_window(context_window)
        names = ("num_shards", "shard_id", "num_workers", "data_buffer_size")
        chosen = {name: kwargs[name] for name in names if name in kwargs}
        return self.get_batch_iterator(dataset, max_sentences=batch_size, **chosen).next_epoch_itr(
            shuffle=False
        )

    def build_generator(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: fairseq's beam search knows no segments and no cache of them."""
        raise UserError(
            "mem_transformer_xl is evaluated with fairseq-eval-lm or fairseq-validate; for "
            "fairseq-generate and fairseq-interactive train mem_transformer_lm"
        )

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Hook of fairseq's trainer, on all workers, before a validation and so before a save."""
        self.place.gather()

    @property
    def source_dictionary(self) -> Dictionary:
        """The dictionary of the words that are read."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The dictionary of the words that are predicted: the same."""
        return self.dictionary
