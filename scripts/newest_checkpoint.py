"""Prints the newest checkpoint of a folder that is whole, if there is one.

    python scripts/newest_checkpoint.py FOLDER
    python scripts/newest_checkpoint.py FOLDER UPDATES [COUNT]

With UPDATES only one of so many updates will do, and the COUNT-1 that were saved before it are
printed after it: what a finished training leaves behind.

A kill or a full disk can truncate a checkpoint. They are zip archives with checksums, so
reading one shows whether it is whole. At the end of an epoch fairseq writes checkpointEPOCH.pt and
no checkpoint_EPOCH_UPDATES.pt, so both count; checkpoint_last.pt and checkpoint_best.pt don't.
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

NAME = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")


def when(checkpoint: Path) -> tuple[int, float]:
    """A checkpoint's place in time: its epoch, and its updates if they are in the name."""
    name = NAME.fullmatch(checkpoint.name)
    assert name is not None
    return int(name[1]), float(name[2] or "inf")


def updates(checkpoint: Path) -> int:
    """How many updates a whole checkpoint was trained for."""
    name = NAME.fullmatch(checkpoint.name)
    if name is not None and name[2]:
        return int(name[2])
    import torch

    torch.serialization.add_safe_globals([argparse.Namespace])
    state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    return int(state["optimizer_history"][-1]["num_updates"])


def is_whole(checkpoint: Path) -> bool:
    """Whether it is an archive that can be read to its end, with the right sums."""
    if not checkpoint.is_file():  # a pipe would be waited for
        return False
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile stumbles over damage in many ways: names, versions, methods, sizes
        return False


def newest(folder: Path) -> list[Path]:
    """The newest whole checkpoint and those of updates before it, newest first."""
    found = (path for path in folder.glob("checkpoint*.pt") if NAME.fullmatch(path.name))
    chosen: list[Path] = []
    for checkpoint in sorted(found, key=when, reverse=True):
        if chosen and "_" not in checkpoint.name:
            continue  # of an epoch's end, between two that come at equal distances
        if is_whole(checkpoint):
            chosen.append(checkpoint)
        else:
            print(f"{checkpoint} is damaged and not used", file=sys.stderr)
    return chosen


def main(folder: Path, wanted: int | None = None, count: int = 1) -> None:
    checkpoints = newest(folder)
    if not checkpoints or (wanted is not None and updates(checkpoints[0]) != wanted):
        return
    for checkpoint in checkpoints[:count]:
        print(checkpoint)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
