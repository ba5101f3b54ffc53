"""Suite: several trainings at a time share one card: how much faster are they together than one?"""

import multiprocessing
import time
from argparse import Namespace
from typing import Any

from fairseq_mem_text.arguments import positive

from .batches import REAL, Batches, BinarisedBatches, Samples
from .contestants import RECOMMENDED, SIZES, STOCK, USUAL, memory_flags, memory_name
from .measure import progress, synchronise
from .report import Report
from .suite import Suite
from .training import FairseqTraining

AT_ONCE = (1, 12)
SECONDS = 10.0


def contestants() -> dict[str, str]:
    """The models of the study that examples/wmt14_de_en/table.sh makes, in turn."""
    found = {STOCK: f"--arch transformer {RECOMMENDED}"}
    for update, tokens in (("shared", 10), ("shared", 20), ("ctrl-shared", 20)):
        found[memory_name(update, tokens)] = f"{memory_flags(update, tokens)} {RECOMMENDED}"
    return found


def _train(
    workload: FairseqTraining, device: str, seconds: float, ready: Any, answers: Any
) -> None:
    """Train for some time, all at the same time."""
    try:
        run = workload.start(device)
        run()
        synchronise(device)
        ready.wait(300)
        begin, units, rounds = time.perf_counter(), 0.0, 0
        while time.perf_counter() - begin < seconds:
            units += run().units
            rounds += 1
            synchronise(device)
        answers.put((units, rounds, time.perf_counter() - begin))
    except BaseException:
        ready.abort()
        raise


def together(
    workloads: list[FairseqTraining], device: str, seconds: float
) -> list[tuple[float, int, float]]:
    """Units, rounds and seconds of each.

    Raises:
        RuntimeError: one of them failed.
    """
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(len(workloads)), context.Queue()
    processes = [
        context.Process(target=_train, args=(w, device, seconds, ready, answers), daemon=True)
        for w in workloads
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"of {len(processes)} trainings at a time not all came through")
    return [answers.get(timeout=60) for _ in processes]


def add_options(parser: Any) -> None:
    """This suite's options."""
    parser.add_argument("--at-once", nargs="+", type=positive, metavar="N",
                        help=f"trainings at a time (default {AT_ONCE})")  # fmt: skip


def run(options: Namespace, report: Report) -> None:
    """A row for every number of trainings."""
    from .models import device_flags

    size = (options.sizes or ["iwslt"])[0]
    tokens = options.batch_tokens or 6000
    batches: Samples = Batches(REAL, tokens, 8, options.vocabulary)
    if options.text:
        batches = BinarisedBatches(options.text, tokens, 8)
    lines = [["trainings at a time", "updates/s, all", "of one", "target tokens/s, all", "× one"]]
    lines.append(["---:"] * 5)
    first = 0.0
    where = device_flags(options.device, options.dtype)
    for number in options.at_once or ((1, 2) if options.quick else AT_ONCE):
        progress(f"together: {number}")
        names = list(contestants().values())
        workloads = [
            FairseqTraining(f"{USUAL} {SIZES[size].flags} {where} {names[i % 4]}", batches)
            for i in range(number)
        ]
        found = together(workloads, options.device, 1.0 if options.quick else SECONDS)
        speed = sum(units / seconds for units, _, seconds in found)
        updates = sum(8 * rounds / seconds for _, rounds, seconds in found)
        first = first or speed
        lines.append([str(number), f"{updates:.1f}", f"{updates / number:.2f}", f"{speed:,.0f}",
                      f"{speed / first:.2f}"])  # fmt: skip
    report.section("\n".join("| " + " | ".join(line) + " |" for line in lines))
    report.note(f"{size} size, {tokens} tokens an update, {', '.join(contestants())} in turn.")


SUITE = Suite("together", "Several trainings at a time", add_options, run)
