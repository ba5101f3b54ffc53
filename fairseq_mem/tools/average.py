"""`fairseq-mem average`: the mean of checkpoints' parameters, as one checkpoint.

Does what fairseq's scripts/average_checkpoints.py does, which is not in its wheel.
"""

import argparse
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from fairseq_mem_text.arguments import positive
from torch import Tensor

from ..checkpoints import read_checkpoint
from ..dictionaries import OPTION, fingerprint, model_options, noted
from ..errors import UserError
from ..files import write_checkpoint
from .loading import first_folder

EPOCHS = re.compile(r"checkpoint(\d+)\.pt")
UPDATES = re.compile(r"checkpoint_\d+_(\d+)\.pt")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser = subparsers.add_parser(
        "average",
        help="average the parameters of several checkpoints",
        description="Average the parameters of several checkpoints of one training. The result "
        "is a checkpoint that all of fairseq's commands load; it has the options of the last one "
        "given (or the newest found) and no optimizer state.",
        epilog="For example: fairseq-mem average --last 5 checkpoints --out averaged.pt",
    )
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT",
        help="a checkpoint; or, with --last and its like, the folder that holds them",
    )  # fmt: skip
    parser.add_argument(
        "--out", "--output", type=Path, required=True, metavar="FILE", help="the new checkpoint"
    )
    newest = parser.add_mutually_exclusive_group()
    newest.add_argument(
        "--last", type=positive, metavar="N",
        help="the last N checkpoints of a folder that has those of epochs (checkpoint7.pt) or "
        "those of updates (checkpoint_7_12000.pt)",
    )  # fmt: skip
    newest.add_argument(
        "--num-epoch-checkpoints", type=positive, metavar="N",
        help="the last N of epochs, if the folder has both (fairseq's name)",
    )  # fmt: skip
    newest.add_argument(
        "--num-update-checkpoints", type=positive, metavar="N",
        help="the last N of updates, if the folder has both (fairseq's name)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-upper-bound", type=positive, metavar="N",
        help="leave out checkpoints of a later epoch or update (fairseq's name)",
    )  # fmt: skip
    return parser


def last_checkpoints(folder: Path, args: argparse.Namespace) -> list[Path]:
    """The newest checkpoints of a folder, the newest at the end.

    Raises:
        UserError: the folder has too few of them, or of both kinds.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the one with the checkpoints")
    found = {
        kind: sorted(
            (int(match[1]), path)
            for path in folder.iterdir()
            if (match := pattern.fullmatch(path.name))
        )
        for kind, pattern in (("epoch", EPOCHS), ("update", UPDATES))
    }
    if args.num_epoch_checkpoints:
        kind, count = "epoch", args.num_epoch_checkpoints
    elif args.num_update_checkpoints:
        kind, count = "update", args.num_update_checkpoints
    else:
        kind, count = "epoch" if found["epoch"] else "update", args.last
        if found["epoch"] and found["update"]:
            raise UserError(
                f"{folder} has checkpoints of epochs and of updates; instead of --last give "
                f"--num-epoch-checkpoints {count} or --num-update-checkpoints {count}"
            )
    bound = args.checkpoint_upper_bound
    numbered = [path for number, path in found[kind] if bound is None or number <= bound]
    if len(numbered) < count:
        up_to = "" if bound is None else f" up to {kind} {bound}"
        raise UserError(
            f"{folder} has {len(numbered)} checkpoints of {kind}s{up_to}, {count} were asked for"
        )
    return numbered[-count:]


def average(paths: list[Path]) -> dict[str, Any]:
    """The checkpoint whose floating-point parameters are the mean of those in ``paths``.

    Sums are in float64, results in the checkpoints' own type. Integers and all but the model come
    from the last one; what is of no use with other parameters is left out: the optimizer's state,
    and moving averages.

    Raises:
        UserError: a file cannot be used, or two are not of one model.
    """
    states = [read_checkpoint(path) for path in paths]
    models: list[dict[str, Tensor]] = [state["model"] for state in states]
    for path, model in zip(paths[1:], models[1:]):
        _check_same_model(paths[0], models[0], path, model)
    _note_dictionaries(paths, states)

    averaged = states[-1]
    averaged.pop("last_optimizer_state", None)
    for name in ("ema", "ema_fp32_params"):
        (averaged.get("extra_state") or {}).pop(name, None)
    done: dict[tuple[Any, ...], Tensor] = {}  # embeddings that are tied stay one tensor
    result = type(models[-1])()
    for key in models[-1]:
        identity = tuple(_place(model[key]) for model in models)
        if identity not in done:
            done[identity] = _mean([model[key] for model in models])
        result[key] = done[identity]
    averaged["model"] = result
    return averaged


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors of a checkpoint that are the same numbers in memory."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _mean(tensors: list[Tensor]) -> Tensor:
    last = tensors[-1]
    if not last.is_floating_point():
        return last.clone()
    total = torch.zeros_like(last, dtype=torch.float64)
    for tensor in tensors:
        total += tensor.double()  # float8 has no sum of its own
    return (total / len(tensors)).to(last.dtype)


def _check_same_model(
    path: Path, model: dict[str, Tensor], other_path: Path, other: dict[str, Tensor]
) -> None:
    for key in sorted(model.keys() ^ other.keys()):
        with_key, without_key = (path, other_path) if key in model else (other_path, path)
        raise UserError(
            f"{with_key} has {key} and {without_key} has not; give checkpoints of one training"
        )
    for key, tensor in model.items():
        for what, ours, theirs in (
            ("shape", tuple(tensor.shape), tuple(other[key].shape)),
            ("type", tensor.dtype, other[key].dtype),
        ):
            if ours != theirs:
                raise UserError(
                    f"{key} has {what} {ours} in {path} and {theirs} in {other_path}; "
                    "give checkpoints of one training"
                )


def _note_dictionaries(paths: list[Path], states: list[dict[str, Any]]) -> None:
    """See that all models had the same dictionaries, and that the last one's options tell them.

    Models of fairseq's own do not note theirs. They are taken from the data, if that is there and
    is older than the checkpoints: what was made again since may be something else.

    Raises:
        UserError: two models were trained with different dictionaries.
    """
    known = [(path, noted(model_options(state))) for path, state in zip(paths, states)]
    known = [(path, found) for path, found in known if found]
    for path, found in known[1:]:
        if found != known[0][1]:
            raise UserError(
                f"{known[0][0]} and {path} were trained with different dictionaries; give "
                "checkpoints of one training"
            )
    options = model_options(states[-1])
    if options is not None and not noted(options):
        found = known[0][1] if known else _of_data(states[-1], paths)
        if found:
            setattr(options, OPTION, found)


def _of_data(state: dict[str, Any], paths: list[Path]) -> dict[str, str]:
    """Fingerprints of the dictionaries of a translation model's data, if that is there.

    Data that is younger than a checkpoint may be something else under the old name.
    """
    from fairseq.data import Dictionary

    task = (state.get("cfg") or {}).get("task") or vars(model_options(state) or Namespace())
    found = {}
    for side, name in (("source", "encoder"), ("target", "decoder")):
        embedding = state["model"].get(f"{name}.embed_tokens.weight")
        language = task.get(f"{side}_lang")
        if embedding is None or not language or not task.get("data"):
            return {}
        file = first_folder(Path(str(task["data"]))) / f"dict.{language}.txt"
        try:
            if file.stat().st_mtime > min(path.stat().st_mtime for path in paths):
                return {}
            words = Dictionary.load(str(file))
        except Exception:  # gone, or of no use: nothing is known then, and nothing is noted
            return {}
        if len(words) != len(embedding):
            return {}
        found[side] = fingerprint(words)
    return found


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    paths: list[Path] = args.checkpoints
    if args.last or args.num_epoch_checkpoints or args.num_update_checkpoints:
        if len(paths) > 1:
            raise UserError(f"give one folder, not {len(paths)}: {paths[1]} is too many")
        paths = last_checkpoints(paths[0], args)
    elif args.checkpoint_upper_bound:
        raise UserError("--checkpoint-upper-bound chooses among a folder's; give --last N too")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path} is given twice; it would count twice")
        seen.add(path.resolve())
    if args.out.resolve() in seen:
        raise UserError(f"{args.out} is one of the checkpoints; choose another name for --out")
    if args.out.is_dir():
        raise UserError(f"{args.out} is a folder; give --out a file's name")
    for path in paths:
        print(f"averaging {path}", file=sys.stderr)
    write_checkpoint(args.out, average(paths))
    print(f"{args.out}: the mean of {len(paths)} checkpoints")
