"""The command line of `fairseq-mem lesion`, and the order of its work."""

import argparse
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairseq_mem_text.arguments import count, positive
from fairseq_mem_text.files import sha256

from ...errors import UserError
from ...files import write_text
from ...runs import charts
from ..loading import first_folder
from .evaluation import Evaluation
from .report import Results, comma_separated, draw, report, rows_of
from .results import fingerprint, stored
from .settings import Setting, memory_of, plan, size_of


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser = subparsers.add_parser(
        "lesion",
        help="evaluate a model with fewer memory slots and with lesions",
        description="Translate and score a test set with the first K memory slots only, and with "
        "both lesions (no-read, zero-read) in every scope that the model has: table, CSV and "
        "chart. Stop it at any point and run it again: it continues.",
        epilog="For example: fairseq-mem lesion checkpoint_best.pt data-bin --reference test.en "
        "--out lesion",
    )
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT",
        help="a model with memory; or several of one kind that differ in their seed",
    )  # fmt: skip
    parser.add_argument("data", type=Path, metavar="DATA_BIN", help="the binarised data")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument(
        "--slots", nargs="+", type=count, metavar="K",
        help="numbers of slots in the encoder (default: 0 2 5 10 20, as far as the model has "
        "them); all that it has come in any case",
    )  # fmt: skip
    parser.add_argument(
        "--reference", type=Path, metavar="FILE",
        help="raw reference, a sentence a line (default: the binarised target, detokenised)",
    )  # fmt: skip
    parser.add_argument(
        "--by-slot", action="store_true",
        help="instead: the loss without each slot in turn, with intervals; which slots attend "
        "alike, and whether those of several seeds correspond (slots.md, slots.csv, slots.png)",
    )  # fmt: skip
    parser.add_argument(
        "--by-layer", action="store_true", help="likewise: the loss without memory in each layer"
    )
    fairseqs = parser.add_argument_group("as in fairseq-generate")
    fairseqs.add_argument("--gen-subset", default="test", metavar="SPLIT", help="default: test")
    fairseqs.add_argument("--beam", type=positive, default=4, metavar="N", help="default: 4")
    fairseqs.add_argument("--lenpen", type=float, default=1.0, metavar="X", help="default: 1")
    fairseqs.add_argument("--max-len-a", type=float, default=0.0, metavar="X", help="default: 0")
    fairseqs.add_argument("--max-len-b", type=count, default=200, metavar="N", help="default: 200")
    fairseqs.add_argument(
        "--post-process", "--remove-bpe", nargs="?", const="subword_nmt", default="subword_nmt",
        metavar="BPE", help="what undoes the BPE: subword_nmt (default), sentencepiece, none",
    )  # fmt: skip
    fairseqs.add_argument(
        "--tokenizer", choices=("moses", "none"), default="moses",
        help="what detokenises (default: moses)",
    )  # fmt: skip
    fairseqs.add_argument(
        "--max-tokens", type=positive, metavar="N", help="of a batch (default: 6000)"
    )
    fairseqs.add_argument("--batch-size", type=positive, metavar="N", help="sentences a batch")
    fairseqs.add_argument("--cpu", action="store_true", help="not on the GPU")
    fairseqs.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    args.data = first_folder(args.data)
    charts.new_figure(1, 1)  # is matplotlib there? hours later is too late
    evaluation = Evaluation(args)
    memory = [memory_of(path) for path in args.checkpoints]
    for path, found in zip(args.checkpoints, memory):
        if found != memory[0]:
            raise UserError(
                f"{args.checkpoints[0]} has {memory[0][0]} + {memory[0][1]} memory tokens (encoder "
                f"+ decoder), {path} has {found[0]} + {found[1]}; give seeds of one model"
            )
    if args.by_slot or args.by_layer:
        from ..insight import single_lesions

        sizes = [size_of(path) for path in args.checkpoints]
        for path, size in zip(args.checkpoints, sizes):
            if size != sizes[0]:
                raise UserError(
                    f"{args.checkpoints[0]} has {sizes[0]}, {path} has {size}; give seeds of one "
                    "model"
                )

        single_lesions.run(
            evaluation, fingerprint(args), args.checkpoints,
            max(memory[0]) if args.by_slot else 0,
            max(sizes[0].encoder, sizes[0].decoder) if args.by_layer else 0,
            args.out, args.gen_subset,
        )  # fmt: skip
        return
    settings, note = plan(*memory[0], args.slots)
    if note:
        print(note, file=sys.stderr)

    common = fingerprint(args)
    work: list[tuple[Path, Setting, Path, dict[str, Any]]] = []
    seen: dict[str, Path] = {}
    for checkpoint in args.checkpoints:
        digest = sha256(checkpoint)
        if digest in seen:
            raise UserError(f"{checkpoint} holds the same as {seen[digest]}; it would count twice")
        seen[digest] = checkpoint
        for setting in settings:
            path = args.out / "results" / digest[:12] / f"{setting.name}.json"
            work.append((checkpoint, setting, path, {"checkpoint": digest, **common}))
    results: Results = {setting: [] for setting in settings}
    done = {path: stored(path, identity) for _, _, path, identity in work}  # refuse before work
    for number, (checkpoint, setting, path, identity) in enumerate(work, 1):
        title = f"{number}/{len(work)} {checkpoint.name} {setting.name}"
        result = done[path]
        if result is None:
            fresh = evaluation.evaluate(checkpoint, setting, title)
            write_text(path.with_suffix(".txt"), "\n".join(fresh.pop("translations")) + "\n")
            packages = ("fairseq-fixed", "torch", "sacrebleu")
            result = {
                "settings": identity, **asdict(setting), **fresh,
                "versions": ", ".join(f"{name} {version(name)}" for name in packages),
            }  # fmt: skip
            write_text(path, json.dumps(result, indent=1) + "\n")
        told = "" if done[path] is None else " (done before)"
        print(
            f"{title}: BLEU {result['BLEU']:.2f}, loss {result['loss']:.3f}{told}", file=sys.stderr
        )
        results[setting].append(result)

    rows = rows_of(results)
    charts.save(draw(rows), args.out / "lesion.png")
    write_text(args.out / "lesion.csv", comma_separated(rows))
    write_text(args.out / "lesion.md", report(rows, results, note, args))
    print(
        f"{args.out / 'lesion.md'}: {len(settings)} settings, {len(args.checkpoints)} checkpoints"
    )
