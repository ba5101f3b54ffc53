"""How fast text becomes data: preprocess.sh's stages beside the libraries' own commands.

    python throughput.py --source FILE --target FILE --out FOLDER [--bpe 32000] [--repeat 1]

times each stage with one process and with two on a real parallel text, then sacremoses,
subword-nmt and fairseq-preprocess one after another with their defaults, and compares all that
they write byte by byte. Writes FOLDER/throughput.{md,json}, with the time for all of WMT-14
projected for 2 and for 16 cores. Nothing else should run on the machine.

How it is projected: each stage of ours is measured on every second line as well, which tells the
seconds for a further line (learning BPE needs fewer and fewer, as words come again: it takes less
than projected); other numbers of cores follow from one and two processes by Amdahl's law.
"""

from __future__ import annotations

import argparse
import filecmp
import functools
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fairseq_mem_text.arguments import positive
from fairseq_mem_text.tokenizing import Limits, drop_rule

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
LANGUAGES = ("de", "en")
WMT14_PAIRS = 4_500_000

Seconds = dict[str, float]


# ---------------------------------------------------------------- running and measuring


class Memory(threading.Thread):
    """The most memory that a process and those it starts have at a time (Linux), in MiB."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.ended, self.peak = process, threading.Event(), 0.0

    def run(self) -> None:
        while not self.ended.wait(0.3):
            self.peak = max(self.peak, sum(map(proportional_mib, family(self.process))))


def family(process: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(status[1])
        except (OSError, IndexError):
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def proportional_mib(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def run(command: list[object], stdin: Path | None = None, stdout: Path | None = None) -> Seconds:
    """Seconds and peak MiB of a command, which must succeed."""
    words = list(map(str, command))
    print("+", *words, *(f"< {stdin}" if stdin else "",), *(f"> {stdout}" if stdout else "",))
    sys.stdout.flush()
    with (
        open(stdin or os.devnull, "rb") as source,
        open(stdout or os.devnull, "wb") as target,
    ):
        start = time.perf_counter()
        process = subprocess.Popen(words, stdin=source, stdout=target, stderr=subprocess.PIPE)
        memory = Memory(process.pid)
        memory.start()
        _, errors = process.communicate()
        seconds = time.perf_counter() - start
        memory.ended.set()
    if process.returncode:
        sys.exit(f"{errors.decode()}\nthroughput.py: {words[0]} failed (above)")
    return {"seconds": seconds, "mib": memory.peak}


def total(*parts: Seconds) -> Seconds:
    return {
        "seconds": sum(part["seconds"] for part in parts),
        "mib": max(part["mib"] for part in parts),
    }


# ---------------------------------------------------------------- the two ways


def ours(raw: Path, folder: Path, merges: int, workers: int, pieces: int) -> dict[str, Seconds]:
    """The commands of preprocess.sh; `pieces` is how many parts fairseq-preprocess makes."""
    many = ["--workers", workers]
    command = [sys.executable, "-m", "fairseq_mem_text"]
    made: dict[str, Seconds] = {}
    made["check"] = run([*command, "check", f"{raw}.de", f"{raw}.en"])
    made["tokenise"] = run(
        [*command, "tokenize", "--source-lang", "de", "--target-lang", "en", *many, "--clean",
         "--remove-nonprinting", f"{raw}.de", f"{raw}.en", folder / "train"]
    )  # fmt: skip
    made["learn BPE"] = run(
        [*command, "learn-bpe", "--merges", merges, *many, "--output", folder / "code",
         folder / "train.de", folder / "train.en"]
    )  # fmt: skip
    made["apply BPE"] = total(
        *(
            run([*command, "apply-bpe", "--codes", folder / "code", *many,
                 folder / f"train.{language}", folder / f"train.bpe.{language}"])
            for language in LANGUAGES
        )
    )  # fmt: skip
    made["binarise"] = binarise(folder, pieces)
    return made


def count_lines(path: object) -> int:
    with open(str(path), "rb") as file:
        return sum(1 for _ in file)


def parts(raw: Path, workers: int) -> int:
    """As preprocess.sh chooses them."""
    if workers == 1 or count_lines(f"{raw}.de") < 50_000:
        return workers
    return min(4 * workers, 64)


def libraries(raw: Path, folder: Path, merges: int) -> dict[str, Seconds]:
    """The libraries' own commands, one after another, with their defaults."""
    made: dict[str, Seconds] = {}
    made["tokenise"] = total(
        *(
            run([BIN / "sacremoses", "-l", language, "-q", "normalize", "-c", "tokenize", "-a"],
                Path(f"{raw}.{language}"), folder / f"all.{language}")
            for language in LANGUAGES
        )
    )  # fmt: skip
    clean(folder)  # not timed: the libraries have no command for it
    made["learn BPE"] = run(
        [BIN / "subword-nmt", "learn-joint-bpe-and-vocab", "-s", merges, "-o", folder / "code",
         "--write-vocabulary", folder / "vocab.de", folder / "vocab.en",
         "-i", folder / "train.de", folder / "train.en"]
    )  # fmt: skip
    made["apply BPE"] = total(
        *(
            run([BIN / "subword-nmt", "apply-bpe", "-c", folder / "code"],
                folder / f"train.{language}", folder / f"train.bpe.{language}")
            for language in LANGUAGES
        )
    )  # fmt: skip
    made["binarise"] = binarise(folder, None)
    return made


def clean(folder: Path) -> None:
    limits = Limits()  # those of preprocess.sh
    with (
        open(folder / "all.de") as german, open(folder / "all.en") as english,
        open(folder / "train.de", "w") as german_out, open(folder / "train.en", "w") as english_out,
    ):  # fmt: skip
        for pair in zip(german, english):
            if drop_rule(*pair, limits) is None:
                german_out.write(pair[0])
                english_out.write(pair[1])


def binarise(folder: Path, workers: int | None) -> Seconds:
    shutil.rmtree(folder / "bin", ignore_errors=True)
    command = [BIN / "fairseq-preprocess", "--source-lang", "de", "--target-lang", "en"]
    command += ["--joined-dictionary", "--trainpref", folder / "train.bpe"]
    command += ["--destdir", folder / "bin"]
    return run([*command, *(["--workers", workers] if workers else [])])


def differing(one: Path, other: Path) -> list[str]:
    names = [f"train.{language}" for language in LANGUAGES] + ["code"]
    names += [f"train.bpe.{language}" for language in LANGUAGES]
    names += [f"bin/dict.{language}.txt" for language in LANGUAGES]
    names += [
        f"bin/train.de-en.{language}.{end}" for language in LANGUAGES for end in ("bin", "idx")
    ]
    return [name for name in names if not filecmp.cmp(one / name, other / name, shallow=False)]


# ---------------------------------------------------------------- projecting


def more_lines(half: float, whole: float, growth: float) -> float:
    """Seconds for `growth` times the text, from those for half of it and for all of it."""
    return whole + max(whole - half, 0) * 2 * (growth - 1)


def more_cores(one: float, two: float, cores: int) -> float:
    """Seconds from those of one and of two processes (Amdahl)."""
    serial = min(max(2 * two / one - 1, 0), 1)
    return one * (serial + (1 - serial) / cores)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def report(result: dict) -> str:
    lines, pairs = 2 * result["pairs"], result["pairs"]
    one, two, theirs = result["ours_1"], result["ours_2"], result["libraries"]
    growth = WMT14_PAIRS / pairs
    rows = [
        f"{pairs:,} pairs; {result['machine']}; {result['versions']}; median of "
        f"{result['repeat']}.",
        "",
        "| stage | libraries, s | lines/s | ours, 1 process, s | ours, 2 processes, s | lines/s "
        "| faster | memory, MiB | all of WMT-14, 2 cores | 16 cores |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    sums = [0.0] * 5
    for stage in two:
        one_all, two_all = (
            more_lines(result[f"half_{workers}"][stage]["seconds"], made[stage]["seconds"], growth)
            for workers, made in ((1, one), (2, two))
        )
        on_2, on_16 = two_all, more_cores(one_all, two_all, 16)
        their = theirs[stage]["seconds"] if stage in theirs else 0.0
        values = (their, one[stage]["seconds"], two[stage]["seconds"], on_2, on_16)
        sums = [total + value for total, value in zip(sums, values)]
        rows.append(row(stage, values, lines, two[stage]["mib"]))
    rows.append(row("**all**", sums, lines, max(made["mib"] for made in two.values())))
    rows += [
        "",
        "Written byte for byte alike."
        if result["differing"] == []
        else "DIFFERENT: " + ", ".join(result["differing"] or ["not compared"]),
    ]
    return "\n".join(rows) + "\n"


def row(stage: str, values: list[float] | tuple[float, ...], lines: int, mib: float) -> str:
    their, one, two, on_2, on_16 = values
    cells = [
        stage,
        f"{their:.1f}" if their else "",
        f"{lines / their:,.0f}" if their else "",
        f"{one:.1f}",
        f"{two:.1f}",
        f"{lines / two:,.0f}",
        f"{their / two:.1f}x" if their else "",
        f"{mib:,.0f}",
        hours(on_2),
        hours(on_16),
    ]
    return f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------- command line


def medians(measure: Callable[[], dict[str, Seconds]], repeat: int) -> dict[str, Seconds]:
    runs = [measure() for _ in range(repeat)]
    return {
        stage: {
            what: statistics.median(one[stage][what] for one in runs) for what in ("seconds", "mib")
        }
        for stage in runs[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="German text, a sentence a line")
    parser.add_argument("--target", type=Path, required=True, help="the same in English")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--bpe", type=positive, default=32_000)
    parser.add_argument("--repeat", type=positive, default=1)
    parser.add_argument("--lines", type=positive, help="only so many pairs")
    parser.add_argument("--no-libraries", action="store_true", help="only ours")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"

    folders = {
        name: arguments.out / name for name in ("ours_1", "ours_2", "half_1", "half_2", "libraries")
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    raw = arguments.out / "raw"
    for language, path in zip(LANGUAGES, (arguments.source, arguments.target)):
        with open(path, "rb") as source, open(f"{raw}.{language}", "wb") as target:
            target.writelines(itertools.islice(source, arguments.lines))
    pairs = count_lines(f"{raw}.de")

    result: dict = {"pairs": pairs, "bpe": arguments.bpe, "repeat": arguments.repeat}
    half = arguments.out / "half"
    for language in LANGUAGES:
        with (
            open(f"{raw}.{language}", "rb") as source,
            open(f"{half}.{language}", "wb") as target,
        ):
            target.writelines(itertools.islice(source, 0, None, 2))
    for workers in (1, 2):
        for kind, text in (("ours", raw), ("half", half)):
            name = f"{kind}_{workers}"
            result[name] = medians(
                # half of the text in as many parts, or the projection would see two differences
                functools.partial(
                    ours, text, folders[name], arguments.bpe, workers, parts(raw, workers)
                ),
                arguments.repeat,
            )
    result["libraries"], result["differing"] = {}, None
    if not arguments.no_libraries:
        result["libraries"] = medians(
            lambda: libraries(raw, folders["libraries"], arguments.bpe), arguments.repeat
        )
        result["differing"] = differing(folders["ours_2"], folders["libraries"])
    result["machine"] = f"{os.cpu_count()} cores, {platform.machine()}"
    packages = ("sacremoses", "subword-nmt", "fairseq-fixed", "numpy")
    result["versions"] = ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    )
    (arguments.out / "throughput.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(result)
    (arguments.out / "throughput.md").write_text(text)
    print(text)
    if result["differing"]:
        sys.exit("throughput.py: the libraries wrote something else (see above)")


if __name__ == "__main__":
    main()
