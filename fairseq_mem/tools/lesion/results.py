"""Results on the disk, each with what it was made from, so that none is taken for another."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fairseq_mem_text.files import is_number, read_json, sha256

from ...errors import UserError

FORMAT = 1


def fingerprint(args: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on besides checkpoint and setting; it is kept with the result."""
    files = sorted(
        path
        for path in args.data.glob("*")
        if path.name.startswith((f"{args.gen_subset}.", "dict."))
    )
    if not any(path.name.startswith(f"{args.gen_subset}.") for path in files):
        raise UserError(f"no {args.gen_subset} in {args.data}; give the folder of binarised data")
    for path in files:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(
                f"{args.gen_subset} of {args.data} cannot be read: {path.name} is no regular "
                "file; binarise it again"
            )
    if args.reference is not None and not args.reference.is_file():
        raise UserError(f"there is no reference {args.reference}; check its name")
    names = (
        "gen_subset", "beam", "lenpen", "max_len_a", "max_len_b", "post_process", "tokenizer",
        "fp16",
    )  # fmt: skip
    return {
        "format": FORMAT,
        **{name: getattr(args, name) for name in names},
        "data": {path.name: sha256(path) for path in files},
        "reference": sha256(args.reference) if args.reference else None,
    }


def stored(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier result; None if there is none, or it is damaged.

    Raises:
        UserError: it was made from something else.
    """
    try:
        result = read_json(path)
        numbers = (result.get(name) for name in ("BLEU", "loss", "sentences"))
        texts = (result.get(name) for name in ("signature", "versions"))
        if not all(map(is_number, numbers)) or not all(isinstance(text, str) for text in texts):
            raise ValueError
        if not isinstance(result.get("settings"), dict):
            raise ValueError
    except FileNotFoundError:
        return None
    except ValueError:
        print(f"{path} is damaged; it is made again", file=sys.stderr)
        return None
    for name, value in settings.items():
        if (there := result["settings"].get(name)) != value:
            here = value
            told = f"another {name}" if isinstance(here, dict) else f"{name} {there}, not {here}"
            raise UserError(f"{path} was made with {told}; choose another --out")
    return result
