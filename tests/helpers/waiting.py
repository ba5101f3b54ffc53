"""Counts what would stop the host of a GPU, on torch's `meta` device, which holds no data."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten.masked_select)


class Waits(TorchDispatchMode):
    """Answers what cannot be known, and counts it.

    Args:
        answer: to every question for a truth.

    Attributes:
        found: how often each operator asked for a value of the device's.
        mixed: operators that were given tensors of the device and of the host; a single number of
            the host's goes with anything.
    """

    def __init__(self, answer: bool = True) -> None:
        super().__init__()
        self.answer = answer
        self.found: Counter[str] = Counter()
        self.mixed: list[str] = []

    @property
    def number(self) -> int:
        """How often the host would have waited."""
        return sum(self.found.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        meta = [t for t in tensors if t.device.type == "meta"]
        if not meta:
            return func(*args, **kwargs)
        packet = func.overloadpacket
        if packet == aten._local_scalar_dense:
            self.found["_local_scalar_dense"] += 1
            return self.answer if meta[0].dtype == torch.bool else meta[0].dtype.is_signed + 0
        if packet == aten.equal:
            self.found["equal"] += 1
            return self.answer
        if packet == aten.nonzero:
            self.found["nonzero"] += 1
            return meta[0].new_empty((meta[0].numel(), meta[0].dim()), dtype=torch.int64)
        if packet == aten._to_copy and kwargs.get("device") not in (None, torch.device("meta")):
            self.found["copy to the host"] += 1
            return torch.empty_like(meta[0], **kwargs)
        if packet == aten.copy_:
            if args[0].device.type != "meta":
                self.found["copy to the host"] += 1
                return args[0]
            return func(*args, **kwargs)
        if packet in INDEXED and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in tree_leaves(args[1])
        ):
            self.found["indexing with a mask"] += 1
            return meta[0] if packet != aten.masked_select else meta[0].flatten()
        if any(t.device.type != "meta" and t.dim() > 0 for t in tensors):
            self.mixed.append(str(func))
        return func(*args, **kwargs)
