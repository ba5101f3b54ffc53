"""Where the reading of streams had come to: kept in checkpoints, and taken up again.

Only the first worker of several writes a checkpoint, so it is given the others' state before, where
fairseq's trainer lets all of them act at once: before a validation.
"""

from typing import Any

import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.distributed import utils as distributed

from .batches import StreamBatches, batches_in
from .state import StreamState


class StreamPlace:
    """The state of the rows that are being read, of this worker and, at times, of all.

    Attributes:
        streams: the model's: its state in training (True) and in evaluation (False).
    """

    def __init__(self) -> None:
        self.streams: dict[bool, StreamState] = {}
        self._gathered: list[StreamState] = []
        self._update_began: StreamState | None = None

    def begin_update(self, position: int) -> None:
        """Note the state that an update begins with; go back to it where one is repeated.

        Under ``--amp`` the trainer repeats all batches of an update whose gradient overflows.

        Args:
            position: how many words of every row came before the update's first batch.
        """
        began = self._update_began
        if began is not None and began.position == position:
            self.streams[True] = began
        self._update_began = self.streams.get(True)

    def gather(self) -> None:
        """Give every worker the state of all; to be called by all of them at once."""
        self._gathered = []
        if not torch.distributed.is_initialized():
            return
        workers = distributed.get_data_parallel_world_size()
        mine = self.streams.get(True)
        if workers == 1 or mine is None:
            return
        group = distributed.get_data_parallel_group()
        parts: list[list[torch.Tensor]] = [[] for _ in range(workers)]
        for tensor in mine.tensors():
            of_all = [torch.empty_like(tensor) for _ in range(workers)]
            torch.distributed.all_gather(of_all, tensor.contiguous(), group=group)
            for part, theirs in zip(parts, of_all):
                part.append(theirs.cpu())
        self._gathered = [mine.with_tensors(part) for part in parts]

    def to_save(self) -> list[dict[str, Any]]:
        """The state of every worker's rows, or only of ours if the others' is not at hand."""
        mine = self.streams.get(True)
        if mine is None:
            return []
        states = self._gathered
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

    def restore(self, saved: list[dict[str, Any]] | None) -> None:
        """Go on reading where a checkpoint was written; at an epoch's beginning without one."""
        self.streams.clear()
        self._update_began = None
        worker = 0
        if torch.distributed.is_initialized():
            worker = distributed.get_data_parallel_rank()
        if saved and worker < len(saved):
            self.streams[True] = StreamState(**saved[worker])


class StreamIterator(EpochBatchIterator):
    """fairseq's iterator, whose place in the epoch includes the state of the rows."""

    dataset: StreamBatches

    def __init__(self, place: StreamPlace, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.place = place

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch for a checkpoint, with the state of every worker's rows."""
        state = super().state_dict()
        if state["iterations_in_epoch"] > 0:
            state["streams"] = self.place.to_save()
            state["streams_of"] = self._rows()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written; with other rows, at the same part of the epoch."""
        before = state_dict.get("streams_of")
        same = before == self._rows()
        if before is not None and not same:
            # The text is cut at other places, for more workers say: the state is of other words,
            # and as large a part of the epoch is read as was then.
            read = state_dict["iterations_in_epoch"] / batches_in(*before)
            there = min(int(read * len(self.dataset)), len(self.dataset) - 1)
            state_dict = {**state_dict, "iterations_in_epoch": there}
        super().load_state_dict(state_dict)
        self.place.restore(state_dict.get("streams") if same else None)

    def _rows(self) -> list[int]:
        """How the text is cut: words in all, rows in all, words of a row in a batch."""
        return [len(self.dataset.stream), self.dataset.rows.all, self.dataset.piece]
