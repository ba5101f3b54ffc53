"""What is said while we work: commands, and how far they are."""

import os
import re
import shlex
import sys
import time
from collections.abc import Sequence

SECONDS_BETWEEN_PROGRESS = 10


class Progress:
    """Says every few seconds how far we are; at the end how long it took.

    Args:
        what: the work's name.
        unit: what is counted.
    """

    def __init__(self, what: str, unit: str = "lines") -> None:
        self.what, self.unit, self.lines, self.start = what, unit, 0, time.monotonic()
        self.next_report = self.start + SECONDS_BETWEEN_PROGRESS

    def add(self, lines: int) -> None:
        """So many more are done."""
        self.lines += lines
        if time.monotonic() >= self.next_report:
            self.report()
            self.next_report = time.monotonic() + SECONDS_BETWEEN_PROGRESS

    def report(self) -> None:
        """Say how many are done, and how many of them in a second."""
        seconds = max(time.monotonic() - self.start, 1e-3)
        say(f"{self.what}: {self.lines:,} {self.unit}, {self.lines / seconds:,.0f} a second")


def hold_closed_streams() -> None:
    """Let nothing take the place of standard streams that somebody closed (``2>&-``).

    A file that is opened would get the number of one, and with it what libraries write there; and
    what Python prints to the standard error would go to the standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def say(message: str) -> None:
    """Print a line to standard error, at once."""
    print(message, file=sys.stderr, flush=True)


def announce(message: str) -> None:
    """Print a line to standard output, at once."""
    print(message, flush=True)


def show(command: Sequence[str]) -> None:
    """Print a command so that it can be copied."""
    announce(f"+ {quoted(command)}")


def quoted(command: Sequence[str]) -> str:
    """A command as a line for the shell; printed like bash's ``printf %q``."""
    words = []
    for word in command:
        if not word or re.search(r"[\x00-\x1f\x7f]", word):
            words.append(shlex.quote(word))
        else:
            word = re.sub(r"""[ !"$&'()*,;<>?\[\\\]^`{|}]|(?<=[=:])~""", r"\\\g<0>", word)
            words.append(f"\\{word}" if word[0] in "#~" else word)
    return " ".join(words)
