"""What a model remembers of the text that it reads on and on."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class StreamState:
    """What is remembered of B rows of text: nothing in it has a gradient between two calls.

    Attributes:
        position: how many words of every row have been read.
        cache: of each layer, B x L x C its last input states in training; B x L x 2C their keys
            and values in evaluation, where the weights stay what they are.
        memory: B x m x C, what was written; None before the first segment, or without recurrence.
        positions: of each layer, in evaluation, H x D x P (``RelativeAttention.positions``).
    """

    position: int = 0
    cache: list[Tensor] = field(default_factory=list)
    memory: Tensor | None = None
    positions: list[Tensor] = field(default_factory=list)

    def tensors(self) -> list[Tensor]:
        """What a checkpoint must hold: the cache, and the memory if there is one."""
        return self.cache if self.memory is None else [*self.cache, self.memory]

    @property
    def rows(self) -> int | None:
        """B; None where nothing is remembered of any row."""
        return self.tensors()[0].size(0) if self.tensors() else None

    def with_tensors(self, tensors: list[Tensor]) -> "StreamState":
        """This state with others in the place of :meth:`tensors`."""
        tensors = list(tensors)
        memory = None if self.memory is None else tensors.pop()
        return StreamState(self.position, tensors, memory)
