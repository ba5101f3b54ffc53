"""The test set, newstest2014, by sacreBLEU."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tarfile
import time
import urllib.error
import zlib
from pathlib import Path

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import BLOCK_BYTES, TIMEOUT_SECONDS
from fairseq_mem_text.files import cannot_write
from fairseq_mem_text.progress import say

TEST_SET, TEST_ARCHIVE = "wmt14/full", "wmt14/test-full.tgz"  # as sacreBLEU calls them
TEST_LINES = 3003


def fetch_test_set(
    folder: Path, mirror: str | None, lines: int, md5: str | None, retries: int
) -> list[Path]:
    """newstest2014, German and English, by sacreBLEU.

    From its cache ($SACREBLEU, or ~/.sacrebleu) if it is there; otherwise it is fetched into
    `folder`, as sacreBLEU takes a file that was cut short by an interruption for whole.
    """
    cache = Path(os.environ.get("SACREBLEU") or Path.home() / ".sacrebleu")
    names = [f"{TEST_SET.replace('/', '_')}.de-en.{field}" for field in ("src", "ref")]
    cached = [cache / TEST_SET / name for name in names]
    if all(map(Path.exists, cached)):
        if all(count_lines(path) == lines for path in cached):
            say(f"newstest2014: in sacreBLEU's cache {cache}")
            return cached
        say(f"newstest2014: not whole in sacreBLEU's cache {cache}; fetching it")
    os.environ["SACREBLEU"] = str(folder)  # sacreBLEU reads it when it is imported
    socket.setdefaulttimeout(TIMEOUT_SECONDS)  # sacreBLEU sets none
    from sacrebleu.dataset import DATASETS

    dataset = DATASETS[TEST_SET]
    if mirror:
        dataset.data = [f"{mirror}/{TEST_ARCHIVE}"]
    if md5:
        dataset.md5 = [md5]
    url = dataset.data[0]
    remedy = "set MIRROR to another server, or SACREBLEU to a folder where sacreBLEU has it"
    for failures in range(1, retries + 2):
        say(f"newstest2014: sacreBLEU fetches {url}")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            dataset.get_files("de-en")
            break
        except SystemExit:
            raise TextError(
                f"{url} is not the file that sacreBLEU expects (see above); {remedy}"
            ) from None
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise TextError(
                    f"{url}: the server says {error.code} {error.reason}; {remedy}"
                ) from None
            problem = f"the server says {error.code} {error.reason}"
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            problem = f"the connection broke ({getattr(error, 'reason', None) or error!r})"
        except (tarfile.TarError, EOFError, zlib.error, FileNotFoundError) as error:
            raise TextError(f"{url} is damaged ({error}); {remedy}") from None
        except OSError as error:
            raise cannot_write(str(error.filename or folder), error) from error
        if failures > retries:
            raise TextError(f"{url}: {problem}; run again to continue, or {remedy}")
        say(f"{url}: {problem}; trying again")
        time.sleep(min(2 ** (failures - 1), 60))
    paths = [folder / TEST_SET / name for name in names]
    for path in paths:
        if (found := count_lines(path)) != lines:
            raise TextError(f"{url} has {found:,} sentences, expected {lines:,}; {remedy}")
    return paths


def count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))
