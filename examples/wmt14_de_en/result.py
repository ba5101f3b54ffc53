"""What run.sh knows about a run, in two files that `fairseq-mem report` reads.

    python result.py settings RUN NAME=TEXT NAME:=NUMBER ...   writes RUN/settings.json
    python result.py check DATA SOURCE TARGET REFERENCE        can the test set be scored?
    python result.py finish RUN DEVICES                        writes RUN/result.json

`settings` refuses a folder that holds a run with other settings; `finish` refuses a run that was
trained on another number of devices, and so with other batches, than its settings say.
"""

import json
import math
import os
import platform
import re
import statistics
import struct
import sys
from importlib.metadata import version
from pathlib import Path

FORMAT = 1
ADDED = {"dictionary_sha256"}  # runs that began with an earlier version do not tell it
PACKAGES = ("fairseq-mem", "fairseq-fixed", "torch", "sacrebleu")


def write(path: Path, content: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def settings(run: Path, words: list[str]) -> None:
    asked: dict[str, object] = {"format": FORMAT}
    for word in words:
        name, text = word.split("=", 1)
        asked[name.rstrip(":")] = json.loads(text) if name.endswith(":") else text
    path = run / "settings.json"
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            sys.exit(f"run.sh: {path} is damaged; remove {run} and run again")
        names = [
            name
            for name in asked | there
            if asked.get(name) != there.get(name) and (name in there or name not in ADDED)
        ]
        if names:
            changes = ", ".join(
                f"{name} {there.get(name)}, not {asked.get(name)}" for name in names
            )
            sys.exit(f"run.sh: {run} holds a run with {changes}; set RUNS to another folder")
        return
    write(path, asked)


def check(data: Path, source: str, target: str, reference: Path) -> None:
    """Before hours of training: is there a test set, and has its reference as many lines?"""
    index = data / f"test.{source}-{target}.{target}.idx"
    if not index.exists():
        sys.exit(f"run.sh: {data} has no test set ({index.name}); binarise one with it")
    with open(index, "rb") as file:  # fairseq's: magic, version, type, number of sentences
        (sentences,) = struct.unpack_from("<Q", file.read(26), 18)
    with open(reference, "rb") as file:
        lines = sum(1 for _ in file)
    if sentences != lines:
        sys.exit(
            f"run.sh: {reference} has {lines} lines for the {sentences} sentences of the test set "
            "(fairseq-preprocess drops none); set REFERENCE to the right file"
        )


def hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = found.group(1) if found else model
    return f"{os.cpu_count()} x {model}"


def losses(run: Path, split: str) -> dict[str, float]:
    """Loss (label-smoothed, as trained on) and its part without smoothing, bits a token."""
    text = (run / "losses.txt").read_text(encoding="utf-8")
    line = re.findall(rf"valid on '{split}' subset .*", text)[-1]
    found = {name: float(re.findall(rf"\| {name} (\S+)", line)[0]) for name in ("loss", "nll_loss")}
    if not all(map(math.isfinite, found.values())):
        sys.exit(f"run.sh: the loss on the {split} set is {found['loss']}: the training diverged")
    return found


def finish(run: Path, devices: int) -> None:
    import torch

    log = (run / "train.log").read_text(encoding="utf-8", errors="replace")
    parameters = re.search(r"num\. shared model params: ([\d,]+) \(num\. trained: ([\d,]+)\)", log)
    speeds = [float(speed) for speed in re.findall(r"train_inner.* wps=([\d.]+),", log)]
    if not speeds:  # a training so short that it ended before the first line: of its epochs
        speeds = [float(speed) for speed in re.findall(r"\| train \|.*\| wps ([\d.]+)", log)]
    if parameters is None or not speeds:
        sys.exit(f"run.sh: {run}/train.log lacks the parameters or the speed; was it changed?")
    for found in re.findall(r"training on (\d+) devices", log):
        if int(found) != devices:
            sys.exit(f"run.sh: {run} was trained on {found} devices, not {devices}; set GPUS")
    bleu, chrf = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    metrics = {
        "BLEU": {"value": bleu["score"], "better": "higher"},
        "chrF": {"value": chrf["score"], "better": "higher"},
    }
    for split in ("test", "valid"):
        found = losses(run, split)
        metrics[f"{split} NLL (bits a token)"] = {"value": found["nll_loss"], "better": "lower"}
        metrics[f"{split} loss"] = {"value": found["loss"], "better": "lower"}
    known = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    threads = os.environ.get("OMP_NUM_THREADS")
    write(
        run / "result.json",
        {
            **known,
            "metrics": metrics,
            "signatures": {"BLEU": bleu["signature"], "chrF": chrf["signature"]},
            "parameters": int(parameters.group(1).replace(",", "")),
            "trained_parameters": int(parameters.group(2).replace(",", "")),
            "target_tokens_per_second": statistics.median(speeds),
            "wall_seconds": sum(int(path.read_text()) for path in run.glob("seconds.*")),
            "versions": {
                "Python": platform.python_version(),
                **{package: version(package) for package in PACKAGES},
            },
            "hardware": hardware(),
            "threads": int(threads) if threads else torch.get_num_threads(),
            "commands": (run / "commands.txt").read_text(encoding="utf-8").splitlines(),
        },
    )
    print(f"{run}: BLEU {bleu['score']:.1f}, chrF {chrf['score']:.1f}")


if __name__ == "__main__":
    command, folder, *words = sys.argv[1:]
    if command == "settings":
        settings(Path(folder), words)
    elif command == "check":
        source, target, reference = words
        check(Path(folder), source, target, Path(reference))
    else:
        finish(Path(folder), int(words[0]))
