"""The `fairseq-mem` command.

A sub-command is one module of this folder and its name in COMMANDS. The module has
`add_parser(subparsers)`, which adds and returns its parser, and `main(args)`, which may return an
exit status. It is imported only when its command is called or all are listed, so what it needs
beyond the package's own requirements belongs inside its `main`. What goes wrong for a reason that
the user can mend is raised as `UserError`.
"""

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.progress import hold_closed_streams

from .. import __version__
from ..errors import UserError

COMMANDS: tuple[str, ...] = (
    "attention",
    "average",
    "context",
    "export",
    "import-bert",
    "lesion",
    "predict",
    "report",
    "score",
    "translate",
)


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class Version(argparse.Action):
    """Prints the versions that matter in a bug report; looks them up only when asked."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        python = ".".join(str(part) for part in sys.version_info[:3])
        others = [f"{package} {version(package)}" for package in ("fairseq-fixed", "torch")]
        print(f"fairseq-mem {__version__}: {', '.join(others)}, Python {python}")
        parser.exit()


def print_user_dir(_: argparse.Namespace) -> None:
    """Print the package's folder, for `--user-dir`."""
    print(Path(__file__).resolve().parent.parent)


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser, with every command in it or, to import no more than needed, with one."""
    parser = Parser(
        prog="fairseq-mem", description="Tools for memory tokens, besides fairseq's own commands."
    )
    parser.add_argument("--version", action=Version, help="print the versions in use and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    user_dir = subparsers.add_parser(
        "user-dir",
        help="print the folder to give to fairseq's --user-dir",
        description='For example: fairseq-train --user-dir "$(fairseq-mem user-dir)" ...',
    )
    user_dir.set_defaults(main=print_user_dir)

    for name in COMMANDS:
        if command in (name, None):
            module = import_module(f".{name.replace('-', '_')}", __package__)
            module.add_parser(subparsers).set_defaults(main=module.main)
    return parser


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals that end a process end it as an error does, so that it tidies up.

    One that is ignored (`nohup`) stays so.
    """

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        numbers = [
            n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL
        ]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status.

    What it printed has arrived then: Python would flush it while it exits, and fail with a page.
    """
    hold_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path is printed as it is, also if no UTF-8
        with contextlib.suppress(OSError):  # a fork's stream, which was a file before it was a pipe
            sys.stdout.reconfigure(errors="surrogateescape")
    try:
        status = _run(argv)
        _flush_output()
        return status
    except (UserError, OSError) as error:
        with contextlib.suppress(OSError):  # what went wrong first is told
            _flush_output()
        if isinstance(error, UserError):
            raise
        if isinstance(error, BrokenPipeError):  # whoever reads our output has seen enough
            return 128 + 13  # as if SIGPIPE had ended us
        raise UserError(f"cannot write to the standard output: {error.strerror}") from error


def _flush_output() -> None:
    if sys.stdout is None:  # as with >&-
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        raise


def _run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in ("user-dir", *COMMANDS) else None
    try:
        args = build_parser(command).parse_args(argv)
    finally:
        _flush_output()  # of --help, which exits
    # importing fairseq leaves the root logger at DEBUG, for every library
    logging.getLogger().setLevel(logging.WARNING)
    try:
        with ended_by_signals():
            return args.main(args) or 0
    except (OSError, TextError) as error:  # a file that is missing or damaged, a full disk
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(str(error)) from error
    except MemoryError:
        raise UserError("there is not enough memory; give less at a time") from None
    except KeyboardInterrupt:
        raise UserError("stopped") from None
