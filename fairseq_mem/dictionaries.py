"""Fingerprints of dictionaries: which words, in which order, a model's embeddings stand for.

Two dictionaries of one size fit the same weights, and with the wrong one a model writes nonsense
without a word. So a model of ours notes those of its training among its options, which fairseq
saves in every checkpoint, and compares whenever it is built again from a checkpoint: in all of
fairseq's commands and ours. A checkpoint without the note is taken as it is.
"""

import hashlib
from argparse import Namespace
from typing import Any

from .errors import UserError

OPTION = "memory_dictionaries"  # among a model's options: {"source": "28 words, 3f…", "target": …}
SIDES = ("source", "target")


def fingerprint(dictionary: Any) -> str:
    """The number of a dictionary's words, and a checksum of the words in their order."""
    digest = hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()
    return f"{len(dictionary)} words, {digest[:16]}"


def fingerprints(task: Any) -> dict[str, str]:
    """Those of a task's dictionaries, as far as it has them."""
    found = {side: getattr(task, f"{side}_dictionary", None) for side in SIDES}
    return {side: fingerprint(words) for side, words in found.items() if words is not None}


def model_options(state: dict[str, Any]) -> Namespace | None:
    """The model's options in a checkpoint as torch reads it, if they are a namespace."""
    options = state.get("args") or (state.get("cfg") or {}).get("model")
    return options if isinstance(options, Namespace) else None


def noted(options: Any) -> dict[str, str]:
    """The fingerprints among a model's options; none in what an older version wrote."""
    found = getattr(options, OPTION, None)
    return found if isinstance(found, dict) else {}


def check_dictionaries(options: Any, task: Any) -> None:
    """Refuse a task whose dictionaries are not those noted among a model's options.

    Raises:
        UserError: names the data, what it has and what the model was trained with.
    """
    known, found = noted(options), fingerprints(task)
    wrong = [
        side for side in SIDES if side in known and found.get(side, known[side]) != known[side]
    ]
    if not wrong:
        return
    side = wrong[0]
    data = getattr(getattr(task, "cfg", None) or getattr(task, "args", None), "data", None)
    exchanged = [found.get(one) for one in SIDES] == [known.get(one) for one in reversed(SIDES)]
    raise UserError(
        f"the {side} dictionary of {data} ({found.get(side)}) is not the one that the model was "
        f"trained with ({known[side]})"
        + (", the two languages are exchanged" if exchanged else "")
        + "; give the data that it learned from, or other text binarised with its dictionaries "
        "(fairseq-preprocess --srcdict, --tgtdict)"
    )


def note_dictionaries(options: Any, task: Any) -> None:
    """Called where a model is built: note the task's dictionaries, or check those of a checkpoint.

    Raises:
        UserError: the options are a checkpoint's, and the task has other dictionaries.
    """
    check_dictionaries(options, task)
    setattr(options, OPTION, noted(options) or fingerprints(task))
