"""Prints the newest checkpoint of a folder that is whole, if there is one.

    python scripts/newest_checkpoint.py FOLDER

A kill or a full disk can truncate a checkpoint. They are zip archives with checksums, so
reading one shows whether it is whole.
"""

import sys
import zipfile
from pathlib import Path


def updates(checkpoint: Path) -> int:
    """The number of updates in checkpoint_EPOCH_UPDATES.pt."""
    return int(checkpoint.stem.split("_")[2])


def is_whole(checkpoint: Path) -> bool:
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError):
        return False


def main(folder: Path) -> None:
    for checkpoint in sorted(folder.glob("checkpoint_*_*.pt"), key=updates, reverse=True):
        if is_whole(checkpoint):
            print(checkpoint)
            return
        print(f"{checkpoint} is damaged and not used", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
