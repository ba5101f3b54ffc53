"""One cell of the study: one task, one model, one seed, from data to score.

usage: cell.py TASK MODEL SEED --work FOLDER [--updates N] [--dry-run]

Does what is missing and prints the result, which it leaves in FOLDER/TASK/MODEL-UPDATES-SEED.
"""

import argparse
import fcntl
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tasks import TASKS, write

ROOT = Path(__file__).resolve().parents[2]
# Options of every model, by name; N slots everywhere, so that controls are compared at equal N.
PLAIN = "--arch mem_transformer --memory-tokens 0"
TRANSLATION = {
    "base": PLAIN,
    "sink": f"{PLAIN} --attention-sink",
    "static": f"{PLAIN} --memory-static 10",
    "memory": "--arch mem_transformer --memory-tokens 10",
    "memory-2": "--arch mem_transformer --memory-tokens 2",
    "ctrl": "--arch mem_ctrl_transformer --memory-tokens 10",
    "ctrl-shared": "--arch mem_ctrl_shared_transformer --memory-tokens 10",
    "bottleneck": "--arch mem_bottleneck_transformer --memory-tokens 10",
}
SEGMENTS = {
    "base": "--memory-tokens 0",
    "sink": "--memory-tokens 0 --attention-sink",
    "static": "--memory-tokens 0 --memory-static 10",
    "memory": "--memory-tokens 10",
    "recurrent": "--memory-tokens 10 --memory-recurrence 5",
}
SIZE = 64
HEADS = 4


def sides(*names: str) -> list[str]:
    """The options of 2 layers of 64, pre-norm."""
    words = []
    for side in names:
        words += [
            f"--{side}-layers", "2", f"--{side}-embed-dim", str(SIZE), f"--{side}-ffn-embed-dim",
            str(4 * SIZE), f"--{side}-attention-heads", str(HEADS), f"--{side}-normalize-before",
        ]  # fmt: skip
    return words


class Cell:
    """Where a cell's files are, and its commands."""

    def __init__(self, task: str, model: str, seed: int, work: Path, updates: int) -> None:
        self.task, self.model, self.seed, self.updates = task, model, seed, updates
        self.segments = TASKS[task].segments
        known = SEGMENTS if self.segments else TRANSLATION
        if model not in known:
            sys.exit(f"algorithmic: {task} has no model {model}; give one of {', '.join(known)}")
        self.options = known[model].split()
        self.folder = work / task
        self.data = self.folder / "data-bin"
        self.run = self.folder / f"{model}-{updates}-{seed}"

    def preprocess(self) -> list[str]:
        """Binarise."""
        text = self.folder / "text"
        tests = [f"{text}/{split}" for split in ("test", "long") if TASKS[self.task].long or
                 split == "test"]  # fmt: skip
        languages = ["--only-source"] if self.segments else [
            "--source-lang", "src", "--target-lang", "tgt", "--joined-dictionary",
        ]  # fmt: skip
        return [
            "fairseq-preprocess", *languages, "--trainpref", f"{text}/train", "--validpref",
            f"{text}/valid", "--testpref", ",".join(tests), "--destdir", str(self.data),
        ]  # fmt: skip

    def train(self) -> list[str]:
        """Train."""
        words = ["fairseq-train", str(self.data), "--user-dir", str(ROOT / "fairseq_mem")]
        if self.segments:
            # An update is of 160 segments. Where none is handed on they don't depend on each other,
            # and stand in as many rows; else five of each row follow one another.
            rows = 32 if self.model == "recurrent" else 160
            words += [
                "--task", "streaming_language_modeling", "--arch", "mem_transformer_xl_small",
                *self.options, *sides("decoder"), "--tokens-per-sample", "8", "--cache-length",
                "0", "--criterion", "cross_entropy", "--batch-size", str(rows),
                "--batch-size-valid", "8", "--lr", "2e-3",
            ]  # fmt: skip
        else:
            words += [
                *self.options, *sides("encoder", "decoder"), "--share-all-embeddings",
                "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
                "--max-tokens", "1000", "--required-batch-size-multiple", "1", "--lr", "3e-3",
            ]  # fmt: skip
        return [
            *words, "--dropout", "0", "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)",
            "--clip-norm", "1", "--lr-scheduler", "polynomial_decay", "--warmup-updates", "200",
            "--total-num-update", str(self.updates), "--max-update", str(self.updates), "--seed",
            str(self.seed), "--cpu", "--distributed-world-size", "1", "--num-workers", "0",
            "--update-epoch-batch-itr", "True", "--validate-interval", "100", "--save-interval",
            "100", "--no-epoch-checkpoints", "--save-dir", str(self.run), "--log-format",
            "simple", "--log-interval", "100",
        ]  # fmt: skip

    def test(self, subset: str) -> list[str]:
        """Have it answer; ``test`` has the lengths of training, ``test1`` the long ones."""
        words = [
            "fairseq-eval-lm" if self.segments else "fairseq-generate", str(self.data),
            "--user-dir", str(ROOT / "fairseq_mem"), "--path",
            str(self.run / "checkpoint_last.pt"), "--gen-subset", subset, "--cpu",
        ]  # fmt: skip
        if self.segments:
            return [*words, "--task", "streaming_language_modeling", "--output-word-probs"]
        return [*words, "--beam", "1", "--max-len-b", "80", "--max-tokens", "4000",
                "--required-batch-size-multiple", "1"]  # fmt: skip

    @property
    def subsets(self) -> dict[str, str]:
        """The tests' names and how fairseq calls them."""
        return {"test": "test", "long": "test1"} if TASKS[self.task].long else {"test": "test"}

    def expected(self, split: str) -> list[list[str]]:
        """The right answers, in their order."""
        name = split if self.segments else f"{split}.tgt"
        lines = (self.folder / "text" / name).read_text(encoding="utf-8").splitlines()
        between = f" {TASKS[self.task].between} "
        return [line.rpartition(between)[2].split() if self.segments else line.split()
                for line in lines]  # fmt: skip


def score_answers(output: str, expected: list[list[str]]) -> dict[str, float]:
    """Of fairseq-generate: lines that are right, and words in their places."""
    found = {
        int(line.split("\t")[0][2:]): line.split("\t")[2].split()
        for line in output.splitlines()
        if line.startswith("H-")
    }
    whole = words = total = 0
    for number, answer in enumerate(expected):
        given = found.get(number, [])
        whole += given == answer
        words += sum(one == other for one, other in zip(given, answer))
        total += len(answer)
    return {"lines": whole / len(expected), "words": words / total}


def score_probabilities(output: str, expected: list[list[str]], between: str) -> dict[str, float]:
    """Of fairseq-eval-lm, for the words behind ``between``, the right ones before them given.

    Returns:
        ``lines`` and ``words``: shares of those that got more than half of the probability;
        ``bits``: the loss of a word.
    """
    words: list[tuple[str, float]] = []
    for line in output.splitlines():
        if "\t" in line:
            words += [(word, float(score))
                      for word, score in re.findall(r"(\S+) \[(-?[\d.]+)\]", line)]  # fmt: skip
    starts = [place + 1 for place, (word, _) in enumerate(words) if word == between]
    if len(starts) != len(expected):
        sys.exit(f"algorithmic: {len(starts)} answers instead of {len(expected)} in the output")
    whole = right = total = 0
    bits = 0.0
    for start, answer in zip(starts, expected):
        given = words[start : start + len(answer)]
        if [word for word, _ in given] != answer:
            sys.exit("algorithmic: the output is not of this text")
        good = sum(score > math.log(0.5) for _, score in given)
        bits -= sum(score for _, score in given) / math.log(2)
        whole += good == len(answer)
        right += good
        total += len(answer)
    return {"lines": whole / len(expected), "words": right / total, "bits": bits / total}


def call(words: list[str], log: Path) -> str:
    """Run one of fairseq's programs; returns what it printed, and keeps it in a log."""
    program = Path(sys.executable).parent / words[0]
    command = [str(program) if program.exists() else words[0], *words[1:]]
    # fairseq clips gradients on a GPU if it sees one, and --cpu then fails
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        sys.exit(f"algorithmic: {words[0]} failed: {last} (all it said is in {log})")
    return done.stdout + done.stderr


def prepare(cell: Cell) -> None:
    """Make the task's data, once; other cells wait."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cell.data / "done").exists():
            write(cell.task, cell.folder / "text")
            shutil.rmtree(cell.data, ignore_errors=True)
            call(cell.preprocess(), cell.folder / "preprocess.log")
            (cell.data / "done").touch()


def run(cell: Cell) -> dict[str, object]:
    """Do what is missing of a cell; returns its result."""
    result = cell.run / "result.json"
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    prepare(cell)
    cell.run.mkdir(exist_ok=True)
    if not (cell.run / "trained").exists():
        call(cell.train(), cell.run / "train.log")
        (cell.run / "trained").touch()
    scores = {}
    for split, subset in cell.subsets.items():
        output = call(cell.test(subset), cell.run / f"{split}.log")
        if cell.segments:
            between = TASKS[cell.task].between
            scores[split] = score_probabilities(output, cell.expected(split), between)
        else:
            scores[split] = score_answers(output, cell.expected(split))
    found = {
        "task": cell.task, "model": cell.model, "seed": cell.seed, "updates": cell.updates,
        "scores": scores, "versions": f"fairseq-fixed {version('fairseq-fixed')}, torch "
        f"{version('torch')}",
    }  # fmt: skip
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, result)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="One task, one model, one seed.")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("model")
    parser.add_argument("seed", type=int)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    args = parser.parse_args()
    cell = Cell(args.task, args.model, args.seed, args.work, args.updates)
    if args.dry_run:
        for words in (cell.preprocess(), cell.train(), *map(cell.test, cell.subsets.values())):
            print("+ " + shlex.join(words))
        return
    scores = run(cell)["scores"]
    assert isinstance(scores, dict)
    told = ", ".join(f"{split}: {score['lines']:.1%} of lines, {score['words']:.1%} of words"
                     for split, score in scores.items())  # fmt: skip
    print(f"{args.task}, {args.model}, seed {args.seed}: {told}")


if __name__ == "__main__":
    main()
