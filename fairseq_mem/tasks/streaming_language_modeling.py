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

import torch
from fairseq import utils
from fairseq.data import Dictionary, data_utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed import utils as distributed
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from ..command_line import refuse_context_window
from ..errors import UserError
from ..models.xl_decoder import StreamState
from ..streaming.batches import Rows, StreamBatches, TokenStream, batches_in, check_length

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


class StreamIterator(EpochBatchIterator):
    """fairseq's iterator, whose place in the epoch includes the state of the rows."""

    dataset: StreamBatches

    def __init__(self, task: "StreamingLanguageModelingTask", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task = task

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        state = super().state_dict()
        if state["iterations_in_epoch"] > 0:
            state["streams"] = self.task.streams_to_save()
            state["streams_of"] = self._rows()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        before = state_dict.get("streams_of")
        same = before == self._rows()
        if before is not None and not same:
            # The text is cut at other places, for more workers say: the state is of other words,
            # and as large a part of the epoch is read as was then.
            read = state_dict["iterations_in_epoch"] / batches_in(*before)
            there = min(int(read * len(self.dataset)), len(self.dataset) - 1)
            state_dict = {**state_dict, "iterations_in_epoch": there}
        super().load_state_dict(state_dict)
        self.task.restore_streams(state_dict.get("streams") if same else None)

    def _rows(self) -> list[int]:
        """How the text is cut: words in all, rows in all, words of a row in a batch."""
        return [len(self.dataset.stream), self.dataset.rows.all, self.dataset.piece]


@register_task("streaming_language_modeling", dataclass=StreamingLanguageModelingConfig)
class StreamingLanguageModelingTask(FairseqTask):
    """See above."""

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
        self.gathered: list[StreamState] = []  # of all workers, before a validation
        self.update_began: StreamState | None = None  # with --amp

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
            self,
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
            streams, began = self.decoder.streams, self.update_began
            if began is not None and began.position == sample["net_input"]["position"]:
                streams[True] = began
            self.update_began = streams.get(True)
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

    # ------------------------------------------------------ the rows' state in a checkpoint

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Hook of fairseq's trainer, on all workers, before a validation and so before a save.

        Only the first worker saves; so here it gets the state of the others' rows.
        """
        self.gathered = []
        if not torch.distributed.is_initialized():
            return
        workers = distributed.get_data_parallel_world_size()
        mine = self.decoder.streams.get(True)
        if workers == 1 or mine is None:
            return
        group = distributed.get_data_parallel_group()
        parts: list[list[torch.Tensor]] = [[] for _ in range(workers)]
        for tensor in mine.tensors():
            everybodys = [torch.empty_like(tensor) for _ in range(workers)]
            torch.distributed.all_gather(everybodys, tensor.contiguous(), group=group)
            for part, theirs in zip(parts, everybodys):
                part.append(theirs.cpu())
        self.gathered = [mine.with_tensors(part) for part in parts]

    def streams_to_save(self) -> list[dict[str, Any]]:
        """The state of every worker's rows, or only of ours if the others' is not at hand."""
        mine = self.decoder.streams.get(True)
        if mine is None:
            return []
        states = self.gathered
        if not states or states[0].position != mine.position:
            states = [mine]
        return [
            {
                "position": state.position,
                "cache": [tensor.cpu() for tensor in state.cache],
                "memory": None if state.memory is None else state.memory.cpu(),
            }
            for state in states
        ]

    def restore_streams(self, saved: list[dict[str, Any]] | None) -> None:
        """Go on reading where a checkpoint was written."""
        self.decoder.streams.clear()
        self.update_began = None
        worker = 0
        if torch.distributed.is_initialized():
            worker = distributed.get_data_parallel_rank()
        if saved and worker < len(saved):
            self.decoder.streams[True] = StreamState(**saved[worker])

    @property
    def source_dictionary(self) -> Dictionary:
        """The words."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The words."""
        return self.dictionary
