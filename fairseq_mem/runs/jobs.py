"""Several runs side by side, and the table of them all."""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .signals import StopOnSignal, Stopped
from .stages import end_group


@dataclass
class Job:
    """A command and the variables of its environment."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]


def run_jobs(jobs: Sequence[Job], at_once: int, gpus: int) -> list[str]:
    """Run several jobs at a time, sharing this machine's GPUs or cores.

    What the environment says of GPUs and threads stays.

    Args:
        jobs: in the order in which they begin.
        at_once: how many run at a time.
        gpus: how many GPUs there are.

    Returns:
        The names of those that failed.

    Raises:
        Stopped: a signal came; all jobs were ended before.
    """
    shared = dict(os.environ)
    if gpus == 0:
        shared["GPUS"] = shared.get("GPUS") or "0"  # so that a run needs not ask
        if at_once > 1 and not shared.get("OMP_NUM_THREADS"):
            shared["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // at_once, 1))
    waiting, failed = list(jobs), []
    running: dict[int, tuple[Job, subprocess.Popen]] = {}  # by place
    with StopOnSignal() as signals:
        try:
            while waiting or running:
                for place in range(at_once):
                    if place not in running and waiting:
                        job = waiting.pop(0)
                        environment = {**shared, **job.environment}
                        if at_once > 1 and gpus > 0 and not shared.get("CUDA_VISIBLE_DEVICES"):
                            environment["CUDA_VISIBLE_DEVICES"] = devices_of(place, at_once, gpus)
                        with signals.later():
                            running[place] = job, begin(job.command, environment)
                time.sleep(0.05)
                for place, (job, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[place]
                        if process.returncode != 0:
                            failed.append(job.name)
        except Stopped:
            for _, process in running.values():  # all at once, before we wait for each
                process.terminate()
            for _, process in running.values():
                end_group(process)
            raise
    return failed


def begin(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
    """Start a command in a process group of its own."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)


def devices_of(place: int, at_once: int, gpus: int) -> str:
    """The GPUs of one of several jobs at a time, as CUDA_VISIBLE_DEVICES wants them."""
    each = max(gpus // at_once, 1)
    first = place * each % gpus
    return ",".join(map(str, range(first, first + each)))


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """The options of a table: those that the script has, and those that its user has."""
    parser.add_argument("--script", required=True, help="runs a cell: SCRIPT MODEL SEED")
    parser.add_argument("--runs", required=True, type=Path, help="the folder of the runs")
    for name in ("models", "seeds", "sizes"):
        parser.add_argument(f"--default-{name}", nargs="+", required=True)
    parser.add_argument("--baseline", default="baseline", help="what the report compares with")
    parser.add_argument("words", nargs="*", help="what the user asked for, after --")


def run_table(args: argparse.Namespace) -> int:
    """Run every cell of a table that is not finished, then `fairseq-mem report`.

    Returns:
        The exit status.

    Raises:
        UserError: an option makes no sense.
        Stopped: a signal came.
    """
    import torch

    asked = _table_options(args.words)
    models, seeds, sizes = (
        asked[name] or getattr(args, f"default_{name}") for name in ("models", "seeds", "sizes")
    )
    at_once = (asked["jobs"] or ["1"])[0]
    if not re.fullmatch("[1-9][0-9]*", at_once):
        raise UserError(f"--jobs {at_once}: give a whole number above 0")
    cells = [
        Job(f"{size}, {model}, seed {seed}", [args.script, model, seed], {"SIZE": size})
        for size in sizes
        for seed in seeds
        for model in models
    ]
    failed = run_jobs(cells, int(at_once), torch.cuda.device_count())
    status = 0
    if not os.environ.get("DRY_RUN"):
        baseline = []
        if any(args.runs.glob(f"*/{args.baseline}/seed-*/result.json")):
            baseline = ["--baseline", args.baseline]
        status = subprocess.call([
            "fairseq-mem", "report", *(str(args.runs / size) for size in sizes),
            "--out", (asked["out"] or [str(args.runs / "report")])[0],
            "--expect-models", *models, "--expect-seeds", *seeds, *baseline,
        ])  # fmt: skip
    for name in failed:
        print(f"table.sh: failed: {name}", file=sys.stderr)
    if failed:
        print(
            "table.sh: the reason is in failed.txt of each run; run again to retry",
            file=sys.stderr,
        )
    return 1 if failed else status


def _table_options(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each option; one may be given several times."""
    values: dict[str, list[str]] = {
        name: [] for name in ("models", "seeds", "sizes", "jobs", "out")
    }
    name = ""
    for word in words:
        if word.startswith("-"):
            name = word.removeprefix("--")
            if name not in values or not word.startswith("--"):
                raise UserError(f"unknown option {word}; see --help")
        elif not name:
            raise UserError(f"unknown argument {word}; see --help")
        else:
            values[name].append(word)
    return values
