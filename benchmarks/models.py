"""fairseq's own ways of building what it trains, from flags, without files."""

import contextlib
import io
import logging
import shlex
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer

import fairseq_mem  # noqa: F401  (registers the architectures)


def quiet() -> None:
    """Silence what fairseq logs and warns of at every start."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def parse(flags: str, data: str = "none") -> Any:
    """fairseq-train's command line, as its nested configuration."""
    return _parse(options.get_training_parser, flags, data)


def parse_generation(flags: str, data: str) -> Any:
    """fairseq-generate's command line, as its nested configuration."""
    return _parse(options.get_generation_parser, flags, data)


def _parse(get_parser: Callable[[], Any], flags: str, data: str) -> Any:
    quiet()
    parser = get_parser()
    words = [data, *shlex.split(flags)]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            args = options.parse_args_and_arch(parser, input_args=words)
    except SystemExit as error:
        said = errors.getvalue().strip().splitlines() or [str(error)]
        raise ValueError(f"{flags}: {said[-1]}") from None
    return convert_namespace_to_omegaconf(args)


def device_flags(device: str, dtype: str) -> str:
    """Where and in which precision fairseq-train runs."""
    place = "--cpu" if device == "cpu" else "--distributed-world-size 1"
    return place + {"float32": "", "fp16": " --fp16", "bf16": " --bf16"}[dtype]


def build_model(flags: str, words: Dictionary, overrides: Mapping[str, Any] | None = None) -> Any:
    """The model that fairseq-train would train; ``overrides`` as --model-overrides."""
    cfg = parse(flags)
    for name, value in (overrides or {}).items():
        setattr(cfg.model, name, value)
    return TranslationTask(cfg.task, words, words).build_model(cfg.model)


def build_trainer(flags: str, words: Dictionary, data: str = "none") -> Trainer:
    """fairseq's own trainer: its ``train_step`` is the whole update."""
    cfg = parse(flags, data)
    # fairseq-train takes --bf16 for a wish for a TPU (it sets "tpu"); we mean a GPU
    cfg.common.tpu = False
    task = TASK_REGISTRY[cfg.task._name](cfg.task, words, words)
    return Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
