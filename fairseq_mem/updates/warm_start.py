"""Completing a checkpoint that knows nothing of a controller."""

from typing import Any


def copy_missing(state: dict[str, Any], source: str, target: str) -> bool:
    """Copy all parameters under ``source`` to ``target``, if it has none; tells whether it did.

    A controller has the parameters of fairseq's encoder layer, name by name.
    """
    if any(key.startswith(f"{target}.") for key in state):
        return False
    copies = {
        target + key.removeprefix(source): value.clone()
        for key, value in state.items()
        if key.startswith(f"{source}.") and ".controller." not in key
    }
    state.update(copies)
    return bool(copies)
