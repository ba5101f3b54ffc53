"""Loading a translation model with its task, the same way for every command that needs one."""

from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints import check_translation, read_checkpoint
from ..dictionaries import check_dictionaries
from ..errors import UserError, first_line

REMEDY = "give the binarised data that the model learned from"


class Loaded(NamedTuple):
    """A model as fairseq builds it, its options, its task, and the data's first folder."""

    model: Any
    cfg: Any
    task: Any
    data: Path


def first_folder(data: Path) -> Path:
    """The first of folders that are joined by ``:``, as fairseq names data in several shards.

    As in fairseq it is the one with the dictionaries, and whose validation and test sets count.
    """
    from fairseq.utils import split_paths

    return Path(split_paths(str(data))[0])


def noted_data(checkpoint: Path, noted: object) -> Path | None:
    """The data that a checkpoint was trained on, or None where it is gone.

    A relative name counts from the current folder, as in fairseq, or else from one above the
    checkpoint: recipes name data and checkpoints from the folder that they run in.

    Args:
        checkpoint: the file.
        noted: what it names as its data, in one or several folders joined by ``:``.
    """
    if not noted:
        return None
    data = first_folder(Path(str(noted)))
    if data.is_absolute():
        return data if data.is_dir() else None
    bases = [Path(), *checkpoint.resolve().parents]
    return next((base / data for base in bases if (base / data).is_dir()), None)


def load_translation_model(
    checkpoint: Path,
    data: Path | None = None,
    overrides: dict[str, Any] | None = None,
    *,
    task: Any = None,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> Loaded:
    """Load a model on the CPU.

    Args:
        checkpoint: of any architecture of fairseq's task ``translation``, or of a task that
            extends it.
        data: folder of its dictionaries, or several joined by ``:``; None for that of its training.
        overrides: options, as in ``--model-overrides``.
        task: of an earlier call with this data, to be used again.
        check: refuses a checkpoint that the caller cannot use, before anything is built from it.

    Raises:
        UserError: the checkpoint cannot be used, or the data is missing or not the model's.
    """
    from fairseq import checkpoint_utils, tasks

    overrides = {"eval_bleu": False, **(overrides or {})}
    if data is not None:
        data = first_folder(data)
        if not data.is_dir():
            raise UserError(f"{data} is no folder; {REMEDY}")
        overrides["data"] = str(data)
    read_checkpoint(checkpoint)  # says it plainly if that is none
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), overrides)
        cfg, weights = state["cfg"], state["model"]
        noted = cfg.task.get("data")
    except Exception as error:  # of many kinds, from fairseq and torch
        raise UserError(
            f"{checkpoint} is no checkpoint that fairseq can read: {first_line(error)}"
        ) from None
    if check is not None:
        check(state)
    check_translation(checkpoint, state)
    if data is None:
        data = noted_data(checkpoint, noted)
        if data is None:
            raise UserError(
                f"{checkpoint} is a checkpoint, and the data that it learned from is not there "
                f"({noted}): give --data DATA_BIN, the folder of its dictionaries"
            )
        if data != first_folder(Path(str(noted))):
            cfg.task.data = overrides["data"] = str(data)
    try:
        _check_data(data, cfg.task, weights)
        languages = cfg.task.source_lang, cfg.task.target_lang
        if task is None:
            task = tasks.setup_task(cfg.task, from_checkpoint=True)
        elif (before := (task.cfg.source_lang, task.cfg.target_lang)) != languages:
            raise UserError(
                f"{checkpoint} translates {' to '.join(languages)}, the one before "
                f"{' to '.join(before)}; give models of one kind"
            )
        check_dictionaries(cfg.model, task)  # models of ours do it too, fairseq's own do not
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], overrides, task, state=state
        )
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot load {checkpoint} with the dictionaries of {data}: {first_line(error)}; "
            f"{REMEDY}"
        ) from error
    return Loaded(model, cfg, task, data)


def load_split(task: Any, split: str, data: Path) -> Any:
    """Load a split of binarised text, and look at every sentence.

    Args:
        task: of a translation model.
        split: its name.
        data: the folder, or several joined by ``:``; its task knows it too.

    Returns:
        the data set.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = first_folder(data)
    if not any(folder.glob(f"{escape(split)}.*-*.*")):
        raise UserError(f"there is no split {split!r} in {data}; give another")
    try:
        check_regular(folder, split)
        task.load_dataset(split, task_cfg=task.cfg)
        dataset = task.dataset(split)
        for number in range(len(dataset)):
            _check_sentence(task, dataset[number])
    except Exception as error:  # of many kinds: fairseq believes what the files say
        raise UserError(
            f"{split} of {data} cannot be read: {first_line(error)}; binarise it again"
        ) from None
    return dataset


def check_regular(folder: Path, split: str) -> None:
    """Refuse what fairseq would open and wait for: a split's files that are no files.

    Raises:
        ValueError: naming it.
    """
    for path in sorted(folder.glob(f"{escape(split)}.*")):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path.name} is no regular file")


def _check_sentence(task: Any, pair: dict[str, Any]) -> None:
    """Refuse numbers that stand for no word.

    Raises:
        ValueError: there is one, or the sentence has no end.
    """
    for side, words in (("source", task.source_dictionary), ("target", task.target_dictionary)):
        tokens = pair[side]
        if tokens is None:  # there may be no target
            continue
        if len(tokens) == 0 or tokens[-1] != words.eos():
            raise ValueError(f"{side} sentence {pair['id'] + 1} has no end")
        if tokens.min() < 0 or tokens.max() >= len(words):
            raise ValueError(
                f"{side} sentence {pair['id'] + 1} has words that are not in the dictionary"
            )


def _check_data(data: Path, options: Any, weights: dict[str, Any]) -> None:
    """Refuse data without dictionaries of the model's languages, of the model's sizes."""
    from fairseq.data import Dictionary
    from fairseq.data.data_utils import infer_language_pair

    if options.source_lang is None or options.target_lang is None:  # told by the data's names
        options.source_lang, options.target_lang = infer_language_pair(str(data))
        if options.source_lang is None:
            raise UserError(f"{data} holds no binarised text; {REMEDY}")
    for side, language in (("encoder", options.source_lang), ("decoder", options.target_lang)):
        path = data / f"dict.{language}.txt"
        if not path.is_file():
            raise UserError(f"{path} is missing; {REMEDY}")
        words = len(Dictionary.load(str(path)))
        embedding = weights.get(f"{side}.embed_tokens.weight")
        if embedding is not None and embedding.size(0) != words:
            raise UserError(f"{path} has {words} words, the model {embedding.size(0)}; {REMEDY}")
