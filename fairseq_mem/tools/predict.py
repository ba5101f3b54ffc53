"""`fairseq-mem predict`: what a classifier or regression says of a test set."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mem_text.arguments import positive

from ..checkpoints import read_checkpoint
from ..errors import UserError, first_line
from .loading import check_regular, noted_data

if TYPE_CHECKING:
    import torch

SAME_CLASSES = "prepare it as --test beside the training text"
REMEDY = "give the data that examples/glue/prepare.sh made for this model"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to the `fairseq-mem` parser."""
    parser = subparsers.add_parser(
        "predict",
        help="predictions of a fine-tuned sentence encoder",
        description="Write predictions.tsv: for each example of a set its class or score, and what "
        "the model predicts. The model was trained with fairseq's task sentence_prediction.",
        epilog="For example: fairseq-mem predict model.pt --data data --out predictions.tsv",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the fine-tuned model")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER",
        help="its data: input0, label and, of pairs, input1",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the predictions")
    parser.add_argument("--split", default="test", metavar="NAME", help="default: test")
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=64,
        metavar="N",
        help="sentences at a time (default: 64)",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="compute on the CPU, though there is a GPU"
    )
    parser.add_argument(
        "--model-overrides", default="{}", metavar="OPTIONS",
        help="as of fairseq-generate: \"{'memory_lesion': 'no-read'}\"",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    import torch

    from ..literals import literal
    from ..runs.sentence import write_predictions

    try:
        overrides = literal(args.model_overrides)
        if not isinstance(overrides, dict):
            raise ValueError(f"{args.model_overrides} is no dictionary")
    except ValueError as error:
        raise UserError(f"--model-overrides: {error}; give \"{{'NAME': VALUE}}\"") from None
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    targets, predictions = predict(
        args.checkpoint, args.data, args.split, args.batch_size, device, overrides
    )
    write_predictions(args.out, targets, predictions)
    print(f"{args.out}: {len(targets)} predictions")


def predict(
    checkpoint: Path,
    data: Path,
    split: str,
    batch_size: int,
    device: "torch.device",
    overrides: dict[str, Any],
) -> tuple[list[str], list[str]]:
    """Targets and predictions of a set, in the order of its examples.

    Raises:
        UserError: the checkpoint or the data cannot be used, or do not fit each other.
    """
    import torch
    from fairseq import checkpoint_utils, utils
    from fairseq.tasks.sentence_prediction import SentencePredictionTask

    state = read_checkpoint(checkpoint)
    trained_on = ((state.get("cfg") or {}).get("task") or {}).get("data")
    if not (data / "input0" / f"{split}.idx").is_file():
        raise UserError(f"{data} has no set {split} (input0/{split}.idx); {REMEDY}")
    overrides = {"data": str(data), "no_shuffle": True, **overrides}
    try:
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], overrides
        )
    except Exception as error:  # of many kinds, from fairseq and torch
        raise UserError(
            f"cannot load {checkpoint} with {data}: {first_line(error)}; {REMEDY}"
        ) from None
    if not isinstance(task, SentencePredictionTask):
        raise UserError(
            f"{checkpoint} was not trained with the task sentence_prediction; give a fine-tuned one"
        )
    head = task.cfg.classification_head_name
    classes = data / "label" / "classes.txt"
    try:
        _check_classes(checkpoint, trained_on, data, task)
        for part in ("input0", "input1", "label"):
            check_regular(data / part, split)
        task.load_dataset(split)
        found = task.dataset(split)
        for row in range(len(found)):
            _check_example(found[row], task)
        names = classes.read_text(encoding="utf-8").splitlines() if classes.is_file() else []
    except UserError:
        raise
    except Exception as error:  # of many kinds: fairseq believes what the files say
        raise UserError(
            f"{split} of {data} cannot be read: {first_line(error)}; {REMEDY}"
        ) from None
    model.to(device).eval()
    targets: list[str] = []
    predictions: list[str] = []
    # neighbours in length need little padding
    order = sorted(range(len(found)), key=found.num_tokens)
    for start in range(0, len(found), batch_size):
        sample = found.collater([found[row] for row in order[start : start + batch_size]])
        if "target" not in sample:
            raise UserError(f"{data} has no labels of the set {split}; {REMEDY}")
        sample = utils.move_to_cuda(sample) if device.type == "cuda" else sample
        with torch.no_grad():
            logits, _ = model(**sample["net_input"], classification_head_name=head)
        if task.cfg.regression_target:
            expected, predicted = sample["target"].view(-1), logits.float().view(-1)
            targets += [f"{value:.6g}" for value in expected.tolist()]
            predictions += [f"{value:.6g}" for value in predicted.tolist()]
        else:
            label = task.label_dictionary
            for column, values in ((targets, sample["target"]), (predictions, logits.argmax(1))):
                for number in values.view(-1).tolist():
                    word = label[number + label.nspecial]
                    named = word.isascii() and word.isdigit() and int(word) < len(names)
                    column.append(names[int(word)] if named else word)
    back = sorted(range(len(order)), key=order.__getitem__)
    return [targets[row] for row in back], [predictions[row] for row in back]


def _classes(task: Any) -> int:
    """How many classes the data has; fairseq adds ``<mask>`` to them, the last one."""
    words = task.label_dictionary
    return len([word for word in words.symbols[words.nspecial :] if word != "<mask>"])


def _check_classes(checkpoint: Path, trained_on: object, data: Path, task: Any) -> None:
    """Refuse data whose classes are others than those that the model was trained to tell apart.

    Raises:
        UserError: they are not as many, or, where the data of its training is still there, others.
    """
    if task.cfg.regression_target:
        return
    has = _classes(task)
    if has != task.cfg.num_classes:
        raise UserError(
            f"{data} has {has} classes, and {checkpoint} tells {task.cfg.num_classes} apart; "
            f"{SAME_CLASSES}"
        )
    before = noted_data(checkpoint, trained_on)
    if before is None:
        return
    for name in ("dict.txt", "classes.txt"):
        kept = []
        for file in (before / "label" / name, data / "label" / name):
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
            if name == "dict.txt":  # counts are of the text
                lines = [line.rpartition(" ")[0] for line in lines]
            kept.append(lines)
        if kept[0] != kept[1]:
            raise UserError(
                f"{data} has other classes than {before}, with which {checkpoint} was trained; "
                f"{SAME_CLASSES}"
            )


def _check_example(example: dict[str, Any], task: Any) -> None:
    """Refuse numbers that stand for no word, and for no class.

    Raises:
        ValueError: there is one.
    """
    sizes = {"net_input.src_tokens": len(task.source_dictionary)}
    if not task.cfg.regression_target:
        sizes["target"] = _classes(task)
    for name, size in sizes.items():
        numbers = example.get(name)
        if numbers is None:  # there may be no labels
            continue
        if numbers.numel() == 0 or numbers.min() < 0 or numbers.max() >= size:
            raise ValueError(f"{name} of example {example['id'] + 1} is not in its dictionary")
