"""Half precision: what torch's autocast is about to do."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """In which precision autocast computes products on a device; None where it is off."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the precision of the tensors."""
    off = autocast_dtype(device) is None
    return nullcontext() if off else torch.autocast(device.type, enabled=False)
