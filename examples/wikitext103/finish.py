"""Writes RUN/result.json, which `fairseq-mem report` reads, from what run.sh left in RUN.

python finish.py RUN EVALUATION ...     each with its output in RUN/EVALUATION.txt
"""

import json
import os
import platform
import re
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "wmt14_de_en"))
from result import hardware, write

PACKAGES = ("fairseq-mem", "fairseq-fixed", "torch")
NAMES = {
    "test": "perplexity",
    "valid": "valid perplexity",
    "test-zero-read": "zero-read perplexity",
}


def finish(run: Path, evaluations: list[str]) -> None:
    import torch

    log = (run / "train.log").read_text(encoding="utf-8", errors="replace")
    parameters = re.search(r"num\. shared model params: ([\d,]+) \(num\. trained: ([\d,]+)\)", log)
    speeds = [float(speed) for speed in re.findall(r"train_inner.* wps=([\d.]+),", log)]
    if not speeds:  # a training so short that it ended before the first line: of its epochs
        speeds = [float(speed) for speed in re.findall(r"\| train \|.*\| wps ([\d.]+)", log)]
    if parameters is None or not speeds:
        sys.exit(f"run.sh: {run}/train.log lacks the parameters or the speed; was it changed?")
    metrics = {}
    for name in evaluations:
        text = (run / f"{name}.txt").read_text(encoding="utf-8")
        found = re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", text)
        scored = re.search(r"Evaluated ([\d,]+) tokens", text)
        if found is None or scored is None or scored[1] == "0":
            sys.exit(f"run.sh: {run}/{name}.txt tells no perplexity; remove it and run again")
        metrics[NAMES[name]] = {"value": float(found[2]), "better": "lower"}
        if name == "test":
            metrics["test NLL (bits a word)"] = {"value": float(found[1]), "better": "lower"}
    known = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    threads = os.environ.get("OMP_NUM_THREADS")
    write(
        run / "result.json",
        {
            **known,
            "metrics": metrics,
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
    print(f"{run}: " + ", ".join(f"{name} {m['value']:.2f}" for name, m in metrics.items()))


if __name__ == "__main__":
    finish(Path(sys.argv[1]), sys.argv[2:])
