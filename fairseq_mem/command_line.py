"""Refuses combinations of options before fairseq has begun its work.

fairseq reads ``--user-dir``, and so imports this package, before it parses the rest of its command
line. What it would only stumble over later, or explain badly, is refused here. Only the command
lines of fairseq's own programs are looked at: what another program that imports the package calls
its options is nobody's business.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .errors import UserError

PROGRAMS = tuple(
    f"fairseq-{name}"
    for name in ("train", "hydra-train", "generate", "interactive", "validate", "eval-lm", "score")
)
MOST_DIGITS = 19  # of thousands of them Python makes no number
# one process keeps the words before a window for the next one
ONE_PROCESS = ("--num-workers", "--num-shards", "--distributed-world-size")


def is_fairseq_program(program: str) -> bool:
    """Whether ``program`` (``sys.argv[0]``) is one of fairseq's, however it was started.

    ``fairseq-train`` by name or path, as by ``torchrun $(which fairseq-train)`` and ``srun``; or
    ``fairseq_cli/train.py``, as by ``python -m fairseq_cli.train``.
    """
    path = Path(program)
    return path.name.removesuffix(".exe") in PROGRAMS or path.parent.name == "fairseq_cli"


def check_command_line(argv: Sequence[str]) -> None:
    """Refuse what fairseq would stumble over, if ``argv`` is the command line of its program.

    Args:
        argv: the program's name and its arguments, ``sys.argv``.

    Raises:
        UserError: ``--arch`` names a registered architecture that knows no memory, a controller
            would be trained without memory, or ``--context-window`` does not go with the rest.
    """
    if argv and is_fairseq_program(argv[0]):
        check_arguments(argv[1:])


def check_arguments(arguments: Sequence[str]) -> None:
    """As :func:`check_command_line`, of the arguments of one of fairseq's programs."""
    _check_context_window(arguments)
    _check_architecture(arguments)


def refuse_context_window(window: int) -> NoReturn:
    """Of ``--context-window`` the cache of a stream is the better form.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"--context-window {window} reads the context again for every window; with streams the "
        "cache is the context: leave it out and give --model-overrides "
        f"\"{{'cache_length': {window}}}\""
    )


def _value(arguments: Sequence[str], *options: str) -> str | None:
    """What is given for an option, the last time; None without, or where nothing follows it."""
    value = None
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        name, equals, text = word.partition("=")
        if name in options:
            value = text if equals else following
    return value or None


def _number(text: str | None) -> int:
    """A whole number; 0 where it is none, which fairseq's parser tells."""
    return int(text) if text is not None and text.isdecimal() and len(text) < MOST_DIGITS else 0


def _check_context_window(arguments: Sequence[str]) -> None:
    """What ``fairseq-eval-lm`` would stumble over before our task or model is asked."""
    window = _number(_value(arguments, "--context-window"))
    if window == 0:
        return
    if _value(arguments, "--task") == "streaming_language_modeling":
        refuse_context_window(window)
    for option in ONE_PROCESS:
        given = _number(_value(arguments, option))
        if given > 1:
            raise UserError(
                f"--context-window with {option} {given}: fairseq keeps the words before a window "
                "in the process that loads it, and several of them would mix the windows up; give "
                f"{option} 1"
            )


def _check_architecture(arguments: Sequence[str]) -> None:
    """About an architecture without memory fairseq would say "unrecognized arguments" alone."""
    beginnings = ("--memory-", "--attention-sink")
    given = [word.partition("=")[0] for word in arguments if word.startswith(beginnings)]
    # fairseq itself has --memory-efficient-fp16 and --memory-efficient-bf16
    given = [word for word in given if not word.startswith("--memory-efficient")]
    if not given:
        return
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    architecture = _value(arguments, "--arch", "-a")
    if architecture not in ARCH_MODEL_REGISTRY:
        return
    ours = [name for name, model in ARCH_MODEL_REGISTRY.items() if hasattr(model, "has_memory")]
    if architecture not in ours:
        raise UserError(
            f"{given[0]} needs an architecture with memory, and {architecture} has none; "
            f"choose --arch from: {', '.join(sorted(ours))}"
        )
    if _value(arguments, "--memory-tokens") != "0":
        return
    preset = Namespace()
    ARCH_CONFIG_REGISTRY[architecture](preset)
    update = _value(arguments, "--memory-update") or getattr(preset, "memory_update", "shared")
    if update != "shared":
        raise UserError(
            f"memory_update {update!r} has nothing to train with 0 memory tokens; "
            "give --memory-tokens, or --memory-update shared"
        )
