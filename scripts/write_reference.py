"""Writes the tables of docs/reference from the options' table and the commands' parsers.

    python scripts/write_reference.py           writes them
    python scripts/write_reference.py --check   ends with status 1 if they are not up to date

What stands between `<!-- written by scripts/write_reference.py: NAME -->` and `<!-- end -->` is
replaced; the text around it is written by hand.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from fairseq_mem_serve.http.main import build_parser as build_server_parser

from fairseq_mem.options import OPTIONS, PLACES, TRANSLATION
from fairseq_mem.runs.tables import markdown
from fairseq_mem.tools import cli

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
BEGIN = "<!-- written by scripts/write_reference.py: {} -->\n"
END = "<!-- end -->"


def memory_options() -> list[str]:
    """The table of the ``--memory-*`` options."""
    rows = []
    for option in OPTIONS:
        shown = option.name if option.at_inference else option.flag
        value = f" {option.kind.shown}" if option.kind.shown and not option.at_inference else ""
        text = option.help.format(place=PLACES[TRANSLATION])
        rows.append([f"`{shown}{value}`", ", ".join(option.families), text])
    return markdown(["option", "models", "meaning"], rows, left=3)


def _value(action: argparse.Action) -> str:
    """How an option's value is shown."""
    if action.nargs == 0:
        return ""
    name = str(action.metavar or action.dest.upper())
    if action.choices is not None and action.metavar is None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    many = {"+": f" {name} [{name} ...]", "?": f" [{name}]"}
    return many.get(str(action.nargs), f" {name}")


def commands() -> Iterator[str]:
    """A section for every command: what it does, its arguments and options."""
    parser = cli.build_parser(None)
    (subparsers,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    for name, command in subparsers.choices.items():
        description = " ".join((command.description or "").split())
        yield from (f"## `fairseq-mem {name}`", "", description, "")
        yield from arguments(command)


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A parser's arguments and options, and what stands below them in its help."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings) or str(action.metavar)
        value = _value(action) if action.option_strings else ""
        needed = "" if not action.option_strings or not action.required else " (needed)"
        rows.append([f"`{names}{value}`{needed}", (action.help or "").replace("%%", "%")])
    if rows:
        yield from (*markdown(["option", "meaning"], rows, left=2), "")
    if parser.epilog:
        yield from (" ".join(parser.epilog.split()), "")


def server_options() -> Iterator[str]:
    """The options of `fairseq-mem-serve`."""
    return arguments(build_server_parser())


PAGES = {
    "options.md": ("memory options", memory_options),
    "commands.md": ("commands", commands),
    "server.md": ("server options", server_options),
}


def written(page: str, text: str) -> str:
    """The page's text with its tables as they should be."""
    name, make = PAGES[page]
    pattern = re.escape(BEGIN.format(name)) + ".*?" + re.escape(END)
    body = BEGIN.format(name) + "\n" + "\n".join(make()).strip() + "\n\n" + END
    replaced, count = re.subn(pattern, lambda _: body, text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{page} has {count} places for the table {name!r}; give it one")
    return replaced


def main(check: bool) -> None:
    """Write the pages, or check them."""
    for page in PAGES:
        path = REFERENCE / page
        before = path.read_text(encoding="utf-8")
        after = written(page, before)
        if check and after != before:
            sys.exit(f"{path} is not up to date; run: python scripts/write_reference.py")
        if not check:
            path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
