"""The registry of tasks whose answer is known: their lines are made with a seed.

A task makes pairs of a source and a target; lengths in training and in the long test are apart. Its
segment-wise form puts both into one line, "SOURCE = TARGET", for a language model that reads it
segment by segment.

usage: tasks.py TASK FOLDER     writes {train,valid,test,long}.{src,tgt}, or {train,valid,test}
       tasks.py --list          names the tasks
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LETTERS = "abcdefghijklmnop"
DIGITS = "12345678"
Pair = tuple[list[str], list[str]]


def copy(chance: random.Random, length: int) -> Pair:
    """The same letters."""
    letters = chance.choices(LETTERS, k=length)
    return letters, letters


def reverse(chance: random.Random, length: int) -> Pair:
    """The letters backwards."""
    letters = chance.choices(LETTERS, k=length)
    return letters, letters[::-1]


def repeat_copy(chance: random.Random, length: int) -> Pair:
    """A number and some letters: these, so many times; ``length`` is the longer target's."""
    times = chance.randint(2, 3)
    letters = chance.choices(LETTERS, k=max(1, length // 3))
    return [str(times), *letters], letters * times


def recall(chance: random.Random, length: int) -> Pair:
    """Pairs of a letter and a digit, and a letter to ask for: its digit."""
    keys = chance.sample(LETTERS, k=min(len(LETTERS), max(1, length // 2)))
    values = [chance.choice(DIGITS) for _ in keys]
    asked = chance.randrange(len(keys))
    pairs = [word for pair in zip(keys, values) for word in pair]
    return [*pairs, "?", keys[asked]], [values[asked]]


def sort(chance: random.Random, length: int) -> Pair:
    """The letters in the alphabet's order."""
    letters = chance.choices(LETTERS, k=length)
    return letters, sorted(letters)


def majority(chance: random.Random, length: int) -> Pair:
    """The most frequent of four letters; one occurs more often than the others."""
    while True:
        letters = chance.choices(LETTERS[:4], k=length)
        counts = sorted(((letters.count(letter), letter) for letter in set(letters)), reverse=True)
        if len(counts) == 1 or counts[0][0] > counts[1][0]:
            return letters, [counts[0][1]]


def kept(chance: random.Random, length: int) -> Pair:
    """Two symbols, so many dots, and the symbols again."""
    symbols = [chance.choice("abcdefgh"), chance.choice(DIGITS)]
    return ["keep", *symbols, *["."] * length], symbols


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        make: a pair of about this length, by whatever chance.
        lengths: in training, validation and the first test.
        long: in the second test.
        train, test: how many lines.
        segments: whether it is the segment-wise form.
        between: the word between source and target then.
    """

    make: Callable[[random.Random, int], Pair]
    lengths: range = range(4, 21)
    long: range = range(21, 41)
    train: int = 20_000
    test: int = 500
    segments: bool = False
    between: str = "="


TASKS = {
    "copy": Task(copy),
    "reverse": Task(reverse),
    "repeat-copy": Task(repeat_copy),
    "recall": Task(recall, long=range(22, 33)),  # whole pairs; 16 letters to ask for
    "sort": Task(sort),
    "majority": Task(majority),
    # examples/reversal and examples/recall, line by line what they always were
    "reversal": Task(reverse, lengths=range(4, 13), long=range(0)),
}
BEYOND = {"repeat-copy": 15, "recall": 14}  # 13 letters are no more than 12, cut by 3 or 2
TASKS |= {
    f"{name}-segments": Task(
        task.make, lengths=range(4, 13), long=range(BEYOND.get(name, 13), 21), segments=True
    )
    for name, task in TASKS.items()
    if name != "reversal"
}
TASKS["recall-far"] = Task(kept, range(24, 25), range(0), segments=True, between="recall")


def different(task: Task, lengths: range, chance: random.Random, known: set[str]) -> Iterator[Pair]:
    """Pairs without end whose source is not among the known; the known grow."""
    tries = 0
    while tries < 1000:  # majority has few short ones
        source, target = task.make(chance, chance.choice(lengths))
        if " ".join(source) in known:
            tries += 1
            continue
        known.add(" ".join(source))
        tries = 0
        yield source, target


def pairs(name: str) -> dict[str, list[Pair]]:
    """All splits of a task; no source occurs twice, in one split or in two."""
    task = TASKS[name]
    if name in FIXED:
        return FIXED[name](task)
    chance, known = random.Random(1), set[str]()
    made = {}
    # the tests come first: of a task with few different short lines, training gets what is left
    for split, lengths, count in (
        ("test", task.lengths, task.test), ("valid", task.lengths, task.test),
        ("long", task.long, task.test), ("train", task.lengths, task.train),
    ):  # fmt: skip
        some = different(task, lengths, chance, known)
        made[split] = [pair for pair, _ in zip(some, range(count))] if lengths else []
    return made


def reversal(task: Task) -> dict[str, list[Pair]]:
    """The lines of examples/reversal, whose figures are those of this very order."""
    chance = random.Random(1)
    lines: dict[str, None] = {}  # a set that keeps the order
    while len(lines) < task.train + 2 * task.test:
        length = chance.choice(task.lengths)
        lines[" ".join(chance.choices(LETTERS, k=length))] = None
    rest = list(lines)
    chance.shuffle(rest)
    made: dict[str, list[Pair]] = {"long": []}
    for split, size in (("train", task.train), ("valid", task.test), ("test", task.test)):
        part, rest = rest[:size], rest[size:]
        made[split] = [(line.split(), line.split()[::-1]) for line in part]
    return made


def recall_far(task: Task) -> dict[str, list[Pair]]:
    """The lines of examples/recall: in training mostly few dots, in one line of ten all of them."""
    chance = random.Random(1)
    most = task.lengths[0]
    made: dict[str, list[Pair]] = {"long": []}
    for split, size in (("train", task.train), ("valid", 200), ("test", task.test)):
        made[split] = []
        for _ in range(size):
            symbols = [chance.choice(kind) for kind in ("abcdefgh", DIGITS)]
            dots = most
            if split == "train":
                dots = min(most, int(1.25 * most * chance.random() ** 2))
            made[split].append((["keep", *symbols, *["."] * dots], symbols))
    return made


FIXED = {"reversal": reversal, "recall-far": recall_far}


def write(name: str, folder: Path) -> None:
    """Write a task's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in pairs(name).items():
        if not some:
            continue
        if TASKS[name].segments:
            between = TASKS[name].between
            columns = {split: [[*source, between, *target] for source, target in some]}
        else:
            columns = {f"{split}.src": [s for s, _ in some], f"{split}.tgt": [t for _, t in some]}
        for file, lines in columns.items():
            text = "".join(" ".join(line) + "\n" for line in lines)
            (folder / file).write_text(text, encoding="utf-8")


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--list"]:
        print("\n".join(TASKS))
    elif len(sys.argv) == 3 and sys.argv[1] in TASKS:
        write(sys.argv[1], Path(sys.argv[2]))
    else:
        sys.exit(f"usage: tasks.py TASK FOLDER, with TASK one of {', '.join(TASKS)}")


if __name__ == "__main__":
    main()
