"""What run.py needs to know of a suite."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple

from .report import Report


class Suite(NamedTuple):
    """A table of its own."""

    name: str
    title: str
    add_options: Callable[[ArgumentParser], None]  # may do nothing
    run: Callable[[Namespace, Report], None]  # adds rows cell by cell; may raise
