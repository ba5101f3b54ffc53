"""The one exception with which this plugin speaks to people."""

from textwrap import shorten


class UserError(SystemExit):
    """Something that the user can mend, told in one line; ends a command with exit status 1.

    It is a ``SystemExit`` on purpose: fairseq's trainer wraps every ``Exception`` raised while a
    checkpoint is loaded into one of its own ("please ensure that the architectures match"), so
    that ours would not be the last line that the user reads, and no traceback helps somebody who
    mistyped an option. In a Python program catch ``fairseq_mem.UserError``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"fairseq_mem: {printable(message)}")


def printable(text: str) -> str:
    """The text in one line, with escapes for what would move a terminal's cursor, and worse."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def first_line(error: BaseException) -> str:
    """What somebody else's exception says, in a line that people read; its class if nothing.

    torch heads a list of misfits with a line that says nothing, and some of its lines go on and on.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict"):
        del lines[0]
    return shorten(lines[0], 200, placeholder=" ...")
