"""Models as fairseq-train builds them from its command line, and how it refuses to."""

import contextlib
import copy
import io
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import options, tasks
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY

from fairseq_mem import UserError
from fairseq_mem.command_line import check_arguments
from helpers.random_models import dictionary

# what of our architectures' names fairseq calls otherwise, the longest first
STOCK = {
    "_big": "transformer_vaswani_wmt_en_de_big", "_wmt_de_en": "transformer_wmt_en_de",
    "_iwslt_de_en": "transformer_iwslt_de_en", "lm_wiki103": "transformer_lm_wiki103",
    "lm_gpt2_small": "transformer_lm_gpt2_small", "transformer_lm": "transformer_lm",
    "roberta_large": "roberta_large", "roberta": "roberta", "transformer": "transformer",
}  # fmt: skip


class Built(NamedTuple):
    """What a training has at its beginning."""

    args: Namespace
    task: Any
    model: Any
    criterion: Any

    def again(self, **overrides: Any) -> Any:
        """The model as a command builds it from the checkpoint, with ``--model-overrides``."""
        args = copy.deepcopy(self.args)
        for name, value in overrides.items():
            setattr(args, name, value)
        return self.task.build_model(args, from_checkpoint=True)


def write_dictionaries(folder: Path) -> None:
    """All that the tasks look for."""
    for name in ("dict.txt", "dict.de.txt", "dict.en.txt"):
        dictionary().save(str(folder / name))


def build(folder: Path, words: list[str], seed: int = 1) -> Built:
    """Task, model and criterion; the random numbers are of the seed."""
    check_arguments(words)
    parser = options.get_training_parser()
    # fairseq makes a configuration of hydra's of it, which takes longer than all else
    args = options.parse_args_and_arch(parser, input_args=[str(folder), *words])
    config = MODEL_DATACLASS_REGISTRY.get(ARCH_MODEL_NAME_REGISTRY[args.arch])
    for name, value in vars(config()).items() if config else ():  # as it does of what was not given
        if not hasattr(args, name) and not str(value).startswith("${"):
            setattr(args, name, value)
    torch.manual_seed(seed)
    task = tasks.setup_task(args)
    model = task.build_model(args)
    criterion = task.build_criterion(Namespace(**{**vars(args), "_name": args.criterion}))
    with torch.no_grad():  # biases, norms and sinks start at 0 and 1, where mistakes hide
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Built(args, task, model, criterion)


def refusal(end: SystemExit, said: str) -> str:
    """The last line that somebody reads whom a command leaves that way."""
    if isinstance(end, UserError):
        return str(end)
    return said.strip().splitlines()[-1]


def attempt(folder: Path, words: list[str], seed: int = 1) -> Built | str:
    """Build, or the line in which that is refused."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return build(folder, words, seed)
    except SystemExit as end:
        line = refusal(end, said.getvalue())
        assert 10 < len(line) < 300 and "\n" not in line and "Traceback" not in line, line
        return line


def without_ours(flags: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The flags that fairseq's own architecture knows, which takes the place of ours."""
    kept = [flag for flag in flags if not flag[0].startswith(("--memory-", "--attention-sink"))]
    return [
        ("--arch", next(name for end, name in STOCK.items() if end in flag[1]))
        if flag[0] == "--arch" else flag for flag in kept
    ]  # fmt: skip
