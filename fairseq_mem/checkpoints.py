"""Reading checkpoints that may be damaged, or a stranger's: looked at before they are used.

torch's safe loader keeps code out of the file; this module sees to what is left: bits that have
changed on their way (torch's reader checks no sums), and options with which fairseq would do more
than build a model. :func:`guard_fairseq` lets fairseq's own commands read through it.
"""

import argparse
import logging
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from fairseq_mem_text.files import is_device
from omegaconf import Node

from .compat import With
from .errors import UserError
from .literals import OPTIONS, literal, shown

logger = logging.getLogger(__name__)

# Options that name a file to write or a program to run: of the one who trains, not of the model.
FORGOTTEN = ("save_predictions", "post_save_script", "tensorboard_logdir")
FOLDER = 0x10  # the attribute of MS-DOS, as archives keep it
REFERENCE = re.compile(r"\$\{[\w.]+\}")  # to another option; all else in ${} asks a resolver


def load(source: Path | IO[bytes], **options: Any) -> dict[str, Any]:
    """``torch.load`` with the safe loader, of a checkpoint whose sums and options are right.

    Files of torch before 1.6 (no archives) have no sums.

    Args:
        source: a file's name, or the open file.
        options: for ``torch.load``; ``mmap`` is only heeded where it works, with an archive.

    Raises:
        UserError: it is damaged, holds what the safe loader refuses, is no checkpoint of
            fairseq's, or has an option that would do harm.
        OSError: it cannot be opened.
    """
    path = source if isinstance(source, Path) else Path(getattr(source, "name", "the checkpoint"))
    if isinstance(source, Path):
        if is_device(source):
            raise UserError(f"{source} is no regular file; give a checkpoint")  # a FIFO would wait
        with source.open("rb") as file:
            is_archive = _check_sums(file, path)
    else:
        is_archive = _check_sums(source, path)
    try:
        mmap = options.pop("mmap", False) and is_archive
        state = torch.load(source, weights_only=True, mmap=mmap, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the unpickler stumbles over garbage in many ways
        if is_archive and isinstance(error, pickle.UnpicklingError):  # the loader understood it
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = f"{shown(found[1])}, which" if found else "more than tensors and options, which"
            raise UserError(
                f"{path} holds {what} torch's safe loader refuses; use only checkpoints that "
                "fairseq wrote"
            ) from None
        raise UserError(f"{path} is damaged, or no checkpoint; leave it out") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is no checkpoint of fairseq's (no model in it); leave it out")
    if not all(isinstance(name, str) and name.isprintable() for name in state["model"]):
        raise UserError(
            f"{path} has a weight without a proper name; leave it out"
        )  # torch tells it
    check_options(path, state)
    return state


def is_whole_archive(file: IO[bytes]) -> bool:
    """Whether every part of an archive of ``torch.save`` has its checksum; reads all of it."""
    try:
        with zipfile.ZipFile(file) as archive:
            # torch takes a file with a folder's mark for one, and leaves its tensor unset
            folders = any(entry.external_attr & FOLDER for entry in archive.infolist())
            return not folders and archive.testzip() is None
    except MemoryError:
        raise
    except Exception:  # of many kinds, as the lists of an archive are damaged too
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of fairseq's, carefully; see `load`.

    Raises:
        UserError: the file is missing, or cannot be used.
    """
    try:
        # tensors stay on the disk until they are used, so that the optimizer's cost nothing
        return load(path, map_location="cpu", mmap=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; check its name") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a checkpoint in it") from None


def _check_sums(file: IO[bytes], path: Path) -> bool:
    """Whether it is an archive; a damaged one is refused."""
    is_archive = file.read(2) == b"PK"
    if is_archive and not is_whole_archive(file):
        raise UserError(f"{path} is damaged (cut short, or changed on its way); leave it out")
    file.seek(0)
    return is_archive


def _strings(state: dict[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """The options that are strings: name, string, and where it is (a container and its key).

    The name is that of the innermost option; what a list holds has the list's.
    """
    waiting: list[tuple[str, Any]] = [("args", state.get("args")), ("cfg", state.get("cfg"))]
    seen: set[int] = set()
    while waiting:
        name, box = waiting.pop()
        if id(box) in seen:
            continue
        seen.add(id(box))
        is_options = isinstance(box, (dict, argparse.Namespace))
        if isinstance(box, (argparse.Namespace, Node)):
            box = vars(box)
        if is_options:
            items = list(box.items())
        elif isinstance(box, dict):  # of omegaconf's: the rest is about where it hangs
            items = [(key, box[key]) for key in ("_content", "_val") if key in box]
        elif isinstance(box, (list, tuple, set, frozenset)):
            items = list(enumerate(box))
        else:
            continue
        for key, value in items:
            inner = key if is_options and isinstance(key, str) else name
            if isinstance(value, str):
                yield inner, value, box, key
            else:
                waiting.append((inner, value))


def check_options(path: Path, state: dict[str, Any]) -> None:
    """Refuse options with which fairseq would do more than build a model.

    Raises:
        UserError: one that fairseq evaluates is no literal, one names a resolver of omegaconf's
            (``${oc.env:NAME}`` reads the environment), or a registry's name is a path, as which
            hydra reads it.
    """
    from fairseq.registry import REGISTRIES

    for name, text, _, _ in _strings(state):
        found = f"{path} has {name} {shown(text)}, "
        if name in OPTIONS and text:
            try:
                literal(text)
            except ValueError:
                raise UserError(
                    f"{found}which fairseq evaluates and which is no literal; do not use it"
                ) from None
        if "${" in REFERENCE.sub("", text):
            raise UserError(f"{found}which asks for more than another option; do not use it")
        if name in REGISTRIES and ("/" in text or "\\" in text or ".." in text):
            raise UserError(f"{found}a path where a name belongs; do not use it")


def forget_side_effects(state: dict[str, Any]) -> None:
    """Take out of a checkpoint what would write files, or run programs, in whoever loads it."""
    forgotten = {}
    for name, text, box, key in list(_strings(state)):
        if name in FORGOTTEN and isinstance(box, (dict, list)):
            box[key] = None
            forgotten[name] = text
    for name, text in forgotten.items():
        logger.info(f"{name} {shown(text)} is not taken from the checkpoint")


def kind(state: dict[str, Any]) -> tuple[str, str]:
    """The names of the task and of the architecture that fairseq would build; "" for none."""

    def option(options: Any, *names: str) -> Any:
        found = (
            options.get(name) if hasattr(options, "get") else getattr(options, name, None)
            for name in names
        )  # fmt: skip
        return next(filter(None, found), None)

    if state.get("args") is not None:
        task, model = option(state["args"], "task") or "translation", option(state["args"], "arch")
    else:
        cfg = state.get("cfg")
        task = option(option(cfg, "task"), "task", "_name")
        model = option(option(cfg, "model"), "_name", "arch")
    return str(task or ""), str(model or "")


def check_translation(path: Path, state: dict[str, Any]) -> None:
    """Refuse what is no translation model, before anything of it is built.

    Raises:
        UserError: its task or its architecture is for something else.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqEncoderDecoderModel
    from fairseq.tasks import TASK_REGISTRY
    from fairseq.tasks.translation import TranslationTask

    task, arch = kind(state)
    if not issubclass(TASK_REGISTRY.get(task, object), TranslationTask):
        raise UserError(
            f"{path} is a model of the task {shown(task)}, and this command takes models of the "
            "task translation; use fairseq's own commands for it"
        )
    model = ARCH_MODEL_REGISTRY.get(arch) or MODEL_REGISTRY.get(arch, object)
    if not issubclass(model, FairseqEncoderDecoderModel):
        raise UserError(
            f"{path} is a model of the architecture {shown(arch)}, and this command takes models "
            "with an encoder and a decoder; use fairseq's own commands for it"
        )


# ---------------------------------------------------------------- fairseq's own commands


def _load_for_fairseq(file: IO[bytes], **options: Any) -> dict[str, Any]:
    state = load(file, **options)
    forget_side_effects(state)
    return state


def _open_tar(*args: Any, **options: Any) -> tarfile.TarFile:
    """Unpacks nothing outside the folder that it is unpacked into."""
    archive = tarfile.open(*args, **options)
    archive.extraction_filter = tarfile.data_filter
    return archive


def _copy_whole(source: str, path: str, overwrite: bool = False) -> bool:
    """fairseq's copy of a checkpoint, under a temporary name first, as it writes the checkpoint."""
    from fairseq.file_io import PathManager

    if PathManager.path_requires_pathmanager(path):  # in a store that is no disk
        return PathManager.copy(source, path, overwrite)
    shutil.copyfile(source, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
    return True


def guard_fairseq() -> None:
    """Let fairseq's commands read checkpoints through :func:`load`; its files stay as they are.

    Its copies of the last and the best checkpoint are never half there, whenever it is killed.

    The archive of a model that ``from_pretrained`` unpacks cannot write outside its folder, and
    the shell, with which fairseq looks into FASTA files, gets no name that it would take for more.
    """
    import shlex

    from fairseq import checkpoint_utils, file_io, file_utils
    from fairseq.data import FastaDataset

    checkpoint_utils.torch = With(torch, load=_load_for_fairseq)
    checkpoint_utils.PathManager = With(file_io.PathManager, copy=_copy_whole)
    file_utils.tarfile = With(tarfile, open=_open_tar)
    build_index = FastaDataset._build_index

    def build_index_of_a_name(self: Any, path: str) -> Any:
        if shlex.quote(path) != path:
            raise UserError(
                f"{shown(path)}.fasta: fairseq gives this name to a shell; rename it to letters, "
                "digits, and . _ - /"
            )
        return build_index(self, path)

    FastaDataset._build_index = build_index_of_a_name
