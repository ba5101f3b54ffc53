"""The newest checkpoints of a folder that are whole.

    python -m fairseq_mem.runs.checkpoints FOLDER
    python -m fairseq_mem.runs.checkpoints FOLDER UPDATES [COUNT]

prints the newest whole checkpoint, if there is one. With UPDATES only one of so many updates will
do, and the COUNT-1 that were saved before it are printed after it: what a finished training leaves.

A kill or a full disk can truncate a checkpoint. They are zip archives with checksums, so
reading one shows whether it is whole. At the end of an epoch fairseq writes checkpointEPOCH.pt and
no checkpoint_EPOCH_UPDATES.pt, so both count; checkpoint_last.pt and checkpoint_best.pt don't.
"""

import filecmp
import re
import shutil
import sys
from pathlib import Path

from ..checkpoints import is_whole_archive, read_checkpoint
from ..errors import UserError
from ..files import write_whole

NAME = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")


def newest_checkpoints(folder: Path) -> list[Path]:
    """The newest whole checkpoint and those of updates before it, newest first."""
    found = (path for path in folder.glob("checkpoint*.pt") if NAME.fullmatch(path.name))
    chosen: list[Path] = []
    for checkpoint in sorted(found, key=_epoch_and_updates, reverse=True):
        if chosen and "_" not in checkpoint.name:
            continue  # of an epoch's end, between two that come at equal distances
        if is_whole(checkpoint):
            chosen.append(checkpoint)
        else:
            print(f"{checkpoint} is damaged and not used", file=sys.stderr, flush=True)
    return chosen


def final_checkpoints(folder: Path, updates: int, count: int = 1) -> list[Path]:
    """What a training that reached its end left: its last checkpoints, newest first, or none."""
    checkpoints = newest_checkpoints(folder)
    if not checkpoints or updates_of(checkpoints[0]) != updates:
        return []
    return checkpoints[:count]


def complete_best(folder: Path) -> None:
    """Copy the newest checkpoint to ``checkpoint_best.pt`` if a kill came before fairseq did.

    A training that goes on from it takes its loss for the best, and would leave an older copy.
    """
    newest, best = newest_checkpoints(folder)[:1], folder / "checkpoint_best.pt"
    try:
        state = read_checkpoint(newest[0])["extra_state"]
        if state["val_loss"] is None or state["val_loss"] != state["best"]:
            return
    except (UserError, LookupError, TypeError):  # none, or a stranger's, which others refuse
        return
    if not best.is_file() or not filecmp.cmp(newest[0], best, shallow=False):
        write_whole(best, lambda partial: shutil.copyfile(newest[0], partial))


def is_whole(checkpoint: Path) -> bool:
    """Whether it is an archive of which every part has its checksum."""
    if not checkpoint.is_file():  # opening a FIFO would wait for ever
        return False
    with checkpoint.open("rb") as file:
        return is_whole_archive(file)


def updates_of(checkpoint: Path) -> int | None:
    """How many updates a whole checkpoint was trained for; None if it is none of fairseq's."""
    name = NAME.fullmatch(checkpoint.name)
    if name is not None and name[2]:
        return int(name[2])
    try:
        return int(read_checkpoint(checkpoint)["optimizer_history"][-1]["num_updates"])
    except (UserError, LookupError, TypeError, ValueError):
        return None


def _epoch_and_updates(checkpoint: Path) -> tuple[int, float]:
    name = NAME.fullmatch(checkpoint.name)
    assert name is not None
    return int(name[1]), float(name[2] or "inf")


def main(folder: Path, updates: int | None = None, count: int = 1) -> None:
    """Print what the module's head says."""
    if updates is None:
        checkpoints = newest_checkpoints(folder)[:1]
    else:
        checkpoints = final_checkpoints(folder, updates, count)
    for checkpoint in checkpoints:
        print(checkpoint)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
