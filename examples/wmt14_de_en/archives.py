"""WMT-14's archives: where they are, what they must be, and the text in them."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.lines import opened


class Archive(NamedTuple):
    """Where an archive is, what it must be, and the text in it, without `.de` and `.en`."""

    server: str
    path: str
    bytes: int
    sha256: str
    text: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


TRAIN = {
    "europarl": Archive(
        "http://www.statmt.org",
        "wmt13/training-parallel-europarl-v7.tgz",
        657_632_379,
        "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
        "training/europarl-v7.de-en",
    ),
    "commoncrawl": Archive(
        "http://www.statmt.org",
        "wmt13/training-parallel-commoncrawl.tgz",
        918_311_367,
        "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
        "commoncrawl.de-en",
    ),
    "news": Archive(
        "http://www.statmt.org",
        "wmt14/training-parallel-nc-v9.tgz",
        80_418_416,
        "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
        "training/news-commentary-v9.de-en",
    ),
}
VALID = Archive(
    "http://data.statmt.org",
    "wmt19/translation-task/dev.tgz",
    38_654_961,
    "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7",
    "dev/newstest2013",
)


def overridden(archive: Archive, checksums: dict[str, tuple[int, str]]) -> Archive:
    size, digest = checksums.get(archive.name, (archive.bytes, archive.sha256))
    return archive._replace(bytes=size, sha256=digest)


def read_checksums() -> dict[str, tuple[int, str]]:
    """Other sizes and sums than those of WMT's own files, from the file $CHECKSUMS."""
    path = os.environ.get("CHECKSUMS")
    if not path:
        return {}
    with opened(path) as file:
        lines = file.read().decode().splitlines()
    found = {}
    for line in lines:
        match = re.fullmatch(r"(\S+) (\d+) ([0-9a-f]+)", line)
        if not match:
            raise TextError(
                f"{path}: {line!r} is not `NAME BYTES SUM`; mend it, or unset CHECKSUMS"
            )
        found[match[1]] = (int(match[2]), match[3])
    return found


def check_known_names(checksums: dict[str, tuple[int, str]]) -> None:
    known = [archive.name for archive in (*TRAIN.values(), VALID)] + ["newstest2014"]
    for name in checksums:
        if name not in known:
            raise TextError(f"CHECKSUMS: there is no file {name}; the names are {', '.join(known)}")
