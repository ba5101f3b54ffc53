"""What all recipes share: the training, continued if it was begun, and its result."""

import os
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairseq_mem_text.progress import show

from ..files import write_text
from . import folder as files
from .checkpoints import newest_checkpoints
from .metrics import measured
from .stages import Follower, RunFailed, Stages, last_lines

Progress = Sequence[tuple[str, str]]  # a pattern of the log's lines, and what to print of it


def training_command(command: list[str], folder: Path) -> list[str]:
    """The command that trains, or trains on from the newest whole checkpoint if there is one."""
    newest = newest_checkpoints(folder)
    if not newest:
        return command
    command = list(command)
    if "--finetune-from-model" in command:  # the checkpoint has what was learned since
        at = command.index("--finetune-from-model")
        del command[at : at + 2]
    return [*command, "--restore-file", str(newest[0])]


def train(stages: Stages, command: list[str], updates: int, progress: Progress) -> None:
    """Run fairseq-train: everything in ``train.log``, the progress on the screen.

    Raises:
        RunFailed: it failed; its last line says why.
    """
    log = stages.folder / "train.log"
    with stages.stage("train", f"training, {updates} updates"):
        command = training_command(command, stages.folder)
        show(command)
        print(f"  (everything it says is in {log})", flush=True)
        follower = Follower(log)

        def print_progress() -> None:
            for line in follower.lines():
                for pattern, text in progress:
                    if found := re.search(pattern, line):
                        said = text.format(*found.groups(), updates=updates)
                        print(f"  {stages.title}: {said}", flush=True)

        try:
            # it writes the log itself, so that nothing of it is lost if we are killed
            with log.open("ab") as output:
                status = stages.run(command, output, watch=print_progress)
        finally:
            follower.close()
        if status != 0:
            last = last_lines(log, 3) or ["it said nothing"]
            print("\n".join(last), file=sys.stderr)
            raise RunFailed(f"fairseq-train failed: {last[-1]}")


def write_result(
    folder: Path,
    devices: int,
    metrics: dict[str, float],
    commands: Iterable[str],
    packages: Iterable[str] = (),
    **more: Any,
) -> None:
    """Write ``commands.txt`` and ``result.json`` of a run that is finished.

    Args:
        folder: the run's, with its settings and ``train.log``.
        devices: on which it should have been trained.
        metrics: the values, of metrics that are known.
        commands: one a line.
        packages: whose versions are noted, besides those that always are.
        more: further entries.

    Raises:
        RunFailed: the log lacks something, or tells of another number of devices.
    """
    import torch

    log = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
    parameters = re.search(r"num\. shared model params: ([\d,]+) \(num\. trained: ([\d,]+)\)", log)
    speeds = [float(speed) for speed in re.findall(r"train_inner.* wps=([\d.]+),", log)]
    if not speeds:  # a training so short that it ended before the first line: of its epochs
        speeds = [float(speed) for speed in re.findall(r"\| train \|.*\| wps ([\d.]+)", log)]
    if parameters is None or not speeds:
        raise RunFailed(f"{folder}/train.log lacks the parameters or the speed; was it changed?")
    for found in re.findall(r"training on (\d+) devices", log):
        if int(found) != devices:
            raise RunFailed(f"{folder} was trained on {found} devices, not {devices}; set GPUS")
    commands = list(commands)
    write_text(folder / "commands.txt", "".join(f"{line}\n" for line in commands))
    threads = os.environ.get("OMP_NUM_THREADS")
    files.write_json(
        folder / "result.json",
        {
            **files.read_json(folder / "settings.json"),
            "metrics": {name: measured(name, value) for name, value in metrics.items()},
            **more,
            "parameters": int(parameters[1].replace(",", "")),
            "trained_parameters": int(parameters[2].replace(",", "")),
            "target_tokens_per_second": statistics.median(speeds),
            "wall_seconds": files.wall_seconds(folder),
            "versions": {
                "Python": platform.python_version(),
                **{name: version(name) for name in ("fairseq-mem", "fairseq-fixed", "torch")},
                **{name: version(name) for name in packages},
            },
            "hardware": hardware(),
            "threads": int(threads) if threads else torch.get_num_threads(),
            "commands": commands,
        },
    )


def hardware() -> str:
    """The GPUs of this machine, or its processor."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = found[1] if found else model
    return f"{os.cpu_count()} x {model}"
