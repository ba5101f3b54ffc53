"""Many short runs: one process imports what they need, and each is a fork of it."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from ..errors import UserError
from .forked import Forked, fork, preload
from .signals import StopOnSignal, Stopped
from .stages import end_group

HANDED_OVER = "HAND_OVER"  # in the environment: scripts/recipe.sh prints what it would run


def add_cells_options(parser: argparse.ArgumentParser) -> None:
    """The options of the recipe ``cells``."""
    parser.add_argument("--script", required=True, help="what runs a cell: SCRIPT WORD...")
    parser.add_argument("--jobs", required=True, help="how many run at a time")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no more after this many seconds"
    )


def run_cells(args: argparse.Namespace, run: Callable[[Sequence[str]], int]) -> int:
    """Run the cells that standard input names, one a line: the words behind the script.

    Args:
        args: see :func:`add_cells_options`.
        run: runs what a script hands over; returns the exit status.

    Returns:
        The exit status: 1 if a cell failed, or there was no time for one.

    Raises:
        UserError: an option makes no sense.
        Stopped: a signal came.
    """
    if not args.jobs.isdecimal() or int(args.jobs) < 1:
        raise UserError(f"--jobs {args.jobs}: give a whole number above 0")
    waiting = [line.split() for line in sys.stdin.read().splitlines() if line.strip()]
    total, began = len(waiting), time.monotonic()
    print(f"== {total} cells, {args.jobs} at a time", flush=True)
    preload()
    running: list[tuple[list[str], Forked]] = []
    failed: list[str] = []
    with StopOnSignal() as signals:
        try:
            while running or (waiting and time.monotonic() - began < args.seconds):
                in_time = time.monotonic() - began < args.seconds
                while waiting and in_time and len(running) < int(args.jobs):
                    words = waiting.pop(0)
                    with signals.later():
                        running.append((words, _begin(args.script, words, run)))
                time.sleep(0.05)
                for cell in [cell for cell in running if cell[1].poll() is not None]:
                    running.remove(cell)
                    if cell[1].returncode:
                        failed.append(" ".join(cell[0]))
        except Stopped:
            for _, process in running:  # all at once, before we wait for each
                process.terminate()
            for _, process in running:
                end_group(process)
            raise
    print(f"== {total - len(waiting)} of {total} cells in {time.monotonic() - began:.0f} s")
    for name in failed:
        print(f"failed: {name} (the reason is in failed.txt of its run)", file=sys.stderr)
    if waiting:
        print(f"no time for {len(waiting)} cells; run again to continue", file=sys.stderr)
    return 1 if failed or waiting else 0


def _begin(script: str, words: list[str], run: Callable[[Sequence[str]], int]) -> Forked:
    def program() -> int:
        environment = {**os.environ, HANDED_OVER: "1"}
        done = subprocess.run([script, *words], capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.stderr.write(done.stderr)
            return done.returncode
        return run(done.stdout.removesuffix("\0").split("\0"))

    return fork(program, [script, *words])
