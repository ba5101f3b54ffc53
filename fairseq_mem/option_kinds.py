"""Kinds of values that an option can have: how each is shown, read, and checked."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from .literals import numbers_of

LESIONS = ("none", "no-read", "zero-read")


class Kind(NamedTuple):
    """A kind of value: how it is shown, read from the command line, and checked.

    Attributes:
        shown: in usage texts; empty for a switch, which takes no value.
        parse: raises ``ArgumentTypeError`` for what it cannot read.
        problem: what is wrong with a value, wherever it comes from; None if nothing is.
    """

    shown: str
    parse: Callable[[str], Any]
    problem: Callable[[Any], str | None]


def count(least: int, most: int | None, hint: str) -> Kind:
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"

    def problem(value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and value >= least and (most is None or value <= most):
            return None
        return f"give a whole number {bounds}{hint}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if problem(number):
            outside = f"not between {least} and {most}" if most is not None else f"below {least}"
            raise argparse.ArgumentTypeError(f"{number} is {outside}{hint}")
        return number

    return Kind("N", parse, problem)


def scale() -> Kind:
    def problem(value: Any) -> str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (number and 0 < value < float("inf")):
            return None
        return (
            "give a positive number, or leave it out: with all slots equal (0) they would stay "
            "equal for ever"
        )

    return Kind("S", float, problem)


def choice(names: tuple[str, ...]) -> Kind:
    def problem(value: Any) -> str | None:
        return None if value in names else f"choose one of {', '.join(names)}"

    def parse(text: str) -> str:
        if wrong := problem(text):
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; {wrong}")
        return text

    return Kind("{" + ",".join(names) + "}", parse, problem)


def lesion() -> Kind:
    chosen = choice(LESIONS)

    def parse(text: str) -> str:
        """Only training commands parse our options, and a lesion is for a trained model."""
        if text == "none":
            return text
        raise argparse.ArgumentTypeError(
            "a lesion is for inference; train without it, then give fairseq-generate "
            f"--model-overrides \"{{'memory_lesion': '{text}'}}\""
        )

    return Kind(chosen.shown, parse, chosen.problem)


def epsilon() -> Kind:
    def problem(value: Any) -> str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and 0 < value < 1 else "give a number between 0 and 1"

    return Kind("E", float, problem)


def numbers() -> Kind:
    def problem(value: Any) -> str | None:
        if value is None or (isinstance(value, str) and numbers_of(value) is not None):
            return None
        return "give numbers from 0 in quotation marks, '0' or '0,3'"

    return Kind("N,N", str, problem)


def switch() -> Kind:
    def problem(value: Any) -> str | None:
        return None if isinstance(value, bool) else "give True or False"

    return Kind("", str, problem)
