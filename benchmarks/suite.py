"""What run.py needs to know of a suite."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

from .report import Report


class Suite(NamedTuple):
    """A table of its own."""

    name: str
    title: str
    add_options: Callable[[Any], None]  # to a group of the parser; may do nothing
    run: Callable[[Namespace, Report], None]  # adds rows cell by cell; may raise
    check: Callable[[ArgumentParser, Namespace], None] | None = None  # refuses bad options
