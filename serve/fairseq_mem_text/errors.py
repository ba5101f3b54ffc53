"""The one exception with which text preparation speaks to people."""


class TextError(Exception):
    """What is wrong with the text or the disk, and what to do: one line for the user."""
