"""`python -m fairseq_mem.runs RECIPE ...`: what the examples' scripts end in.

    python -m fairseq_mem.runs translation RUN OPTION... ::: train COMMAND... ::: validate ...
    python -m fairseq_mem.runs language-model RUN OPTION... ::: train COMMAND... ::: test ...
    python -m fairseq_mem.runs sentence RUN OPTION... ::: train COMMAND... ::: predict ...
    python -m fairseq_mem.runs table OPTION... -- WORD...
    python -m fairseq_mem.runs cells OPTION...

The first three do what is missing of a run. Each `:::` begins a stage: its name, and the command
with its flags. With DRY_RUN in the environment the commands are shown only. See ``--help`` of each.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_mem_text.arguments import positive
from fairseq_mem_text.files import sha256
from fairseq_mem_text.progress import hold_closed_streams, show

from ..errors import UserError
from . import folder as files
from .cells import add_cells_options, run_cells
from .jobs import add_table_options, run_table
from .language_model import LanguageModel
from .sentence import Sentence
from .signals import Stopped
from .stages import RunFailed, Stages, message_of
from .translation import Translation

STAGE = ":::"


def build_parser() -> argparse.ArgumentParser:
    """What stands before the first stage."""
    parser = argparse.ArgumentParser(prog="python -m fairseq_mem.runs")
    recipes = parser.add_subparsers(dest="recipe", required=True)
    for name in ("translation", "language-model", "sentence"):
        recipe = recipes.add_parser(name)
        recipe.add_argument("run", type=Path, help="the run's folder")
        recipe.add_argument(
            "--updates", type=positive, required=True, help="length of the training"
        )
        recipe.add_argument("--devices", type=positive, required=True, help="devices that train")
        recipe.add_argument(
            "--data-identity", type=Path, required=True, metavar="FILE",
            help="a file that differs where data do; its checksum goes into the settings",
        )  # fmt: skip
        recipe.add_argument(
            "--dictionaries", type=Path, nargs="+", required=True, metavar="FILE",
            help="of the data; their checksum goes into the settings too",
        )  # fmt: skip
        recipe.add_argument(
            "--settings", nargs="+", required=True, metavar="NAME=TEXT|NAME:=NUMBER",
            help="the run's settings; with others it does not go on",
        )  # fmt: skip
        if name == "translation":
            recipe.add_argument("--data", type=Path, required=True, help="the binarised data")
            recipe.add_argument("--reference", type=Path, required=True, help="of the test set")
            recipe.add_argument(
                "--average", type=positive, default=1, help="checkpoints of the model"
            )
        if name == "sentence":
            recipe.add_argument("--metrics", nargs="+", required=True, help="of the test set")
            recipe.add_argument("--drop-model", action="store_true", help="keep the scores alone")
    add_table_options(recipes.add_parser("table"))
    add_cells_options(recipes.add_parser("cells"))
    return parser


def split_stages(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The words before the first stage, and each stage's command by its name."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == STAGE:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts[0], {name: command for name, *command in parts[1:]}


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """The settings as they are written down."""
    settings: dict[str, object] = {}
    for word in args.settings:
        name, text = word.split("=", 1)
        settings[name.rstrip(":")] = json.loads(text) if name.endswith(":") else text
        if name == "data":
            settings["data_sha256"] = sha256(args.data_identity)[:16]
            words_of_all = b"".join(path.read_bytes() for path in args.dictionaries)
            settings["dictionary_sha256"] = hashlib.sha256(words_of_all).hexdigest()[:16]
    return settings


def run_recipe(args: argparse.Namespace, commands: dict[str, list[str]]) -> None:
    """Do what is missing of a run, or show it."""
    recipe: Translation | LanguageModel | Sentence
    if args.recipe == "translation":
        recipe = Translation(
            commands, args.updates, args.devices, args.data, args.reference, args.average
        )
    elif args.recipe == "sentence":
        recipe = Sentence(commands, args.updates, args.devices, args.metrics, not args.drop_model)
    else:
        recipe = LanguageModel(commands, args.updates, args.devices)
    if os.environ.get("DRY_RUN"):
        for command in recipe.shown_commands(args.run):
            show(command)
        return
    settings = settings_of(args)
    title = f"{settings['model']}, seed {settings['seed']}"
    with files.locked(args.run) as lock:
        files.begin_run(args.run, settings)
        if (args.run / "result.json").exists():
            print(f"{args.run} is finished: nothing to do")
            return
        try:
            with Stages(args.run, title, lock) as stages:
                recipe.run(stages)
        except Stopped:
            raise Stopped(f"{title}: stopped; run it again to continue") from None
        except (RunFailed, UserError, OSError) as error:
            raise UserError(f"{message_of(error)} (run again to continue)") from None


def main(words: Sequence[str]) -> int:
    """Run what a script asks for; returns the exit status."""
    hold_closed_streams()
    options, commands = split_stages(words)
    args = build_parser().parse_args(options)
    # what the user called
    program = "table.sh" if args.recipe in ("table", "cells") else "run.sh"
    try:
        if args.recipe == "cells":
            return run_cells(args, main)
        if args.recipe == "table":
            return run_table(args)
        run_recipe(args, commands)
    except (Stopped, KeyboardInterrupt) as stopped:
        why = str(stopped) or "stopped; run it again to continue"
        print(f"{program}: {why}", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        print(f"{program}: {message_of(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
