"""Contestants in processes of their own, asked for one round after the other, in turn.

A process each keeps one contestant's memory, allocator and crashes from the others; only one of
them works at a time. The rounds alternate (A B C, C B A, A B C, ...), so that a machine that
slows down or speeds up does so for all.
"""

import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

MIB = 2**20


@dataclass
class Work:
    """What one round did: so many units (tokens, sentences), and anything worth keeping."""

    units: float
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """One measured round."""

    seconds: float
    units: float
    peak: int  # bytes above the process before or after building, as the workload says
    detail: dict[str, Any]

    @property
    def speed(self) -> float:
        """Units a second."""
        return self.units / self.seconds


class Failed(Exception):
    """A contestant could not run; the message is one line for the table."""


class Workload(Protocol):
    """What a contestant does in a round. Plain data: it is sent to another process."""

    @property
    def counts_model(self) -> bool:
        """Whether the peak memory includes the model, or only what comes on top of it."""

    def start(self, device: str) -> Callable[[], Work]:
        """Build everything and return what runs one round."""
        ...


# ------------------------------------------------------------ the contestant's process


class _Memory:
    """Peak memory of this process, or of its part of the GPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def now(self) -> int:
        """Bytes in use."""
        if self.cuda:
            import torch

            return torch.cuda.memory_allocated()
        return _status("VmRSS") or self.peak()

    def reset(self) -> None:
        """Forget the peak; where the system can't, the peak stays that of the whole process."""
        if self.cuda:
            import torch

            return torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")

    def peak(self) -> int:
        """Highest number of bytes in use since the reset."""
        if self.cuda:
            import torch

            return torch.cuda.max_memory_allocated()
        unit = 1 if sys.platform == "darwin" else 1024
        return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str, path: str = "/proc/self/status") -> int:
    """A line of /proc in bytes, 0 where there is no such line."""
    with contextlib.suppress(OSError), open(path) as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _limit_memory() -> None:
    """Let an allocation that the machine could not bear fail here, instead of killing others."""
    available = _status("MemAvailable", "/proc/meminfo")
    if available:
        limit = _status("VmSize") + int(0.85 * available)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _serve(connection: Connection, workload: Workload, device: str) -> None:
    """Build the contestant, then run a round whenever asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    import torch

    torch.manual_seed(1)
    memory = _Memory(device)
    base = memory.now()
    run: Callable[[], Work] | None = None
    while True:
        connection.recv()
        try:
            gc.collect()
            if device == "cpu":
                _limit_memory()
            if run is None:
                run = workload.start(device)
                gc.collect()
                if not workload.counts_model:
                    base = memory.now()
                connection.send(None)
                continue
            memory.reset()
            synchronise(device)
            start = time.perf_counter()
            work = run()
            synchronise(device)
            seconds = time.perf_counter() - start
            peak = max(0, memory.peak() - base)
            connection.send(Sample(seconds, work.units, peak, work.detail))
        except (Exception, SystemExit) as error:  # fairseq and the plugin may exit
            connection.send(Failed(one_line(error)))


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def one_line(error: BaseException) -> str:
    """An exception in one line; running out of memory in plain words."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return "does not fit into memory"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:200]


# ------------------------------------------------------------ the parent's side


class Worker:
    """A contestant's process. Started on the first :meth:`ask`."""

    def __init__(self, workload: Workload, device: str) -> None:
        context = multiprocessing.get_context("forkserver")
        # imported once, before any thread is started, and shared by all
        context.set_forkserver_preload(["torch", "fairseq.trainer", "fairseq_mem"])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, workload, device), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self) -> Sample | None:
        """Build (the first time) or run one round.

        Raises:
            Failed: it could not; don't ask again.
        """
        try:
            self.connection.send(True)
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Failed(
                f"its process ended with status {self.process.exitcode}: memory?"
            ) from None
        if isinstance(answer, Failed):
            raise answer
        return answer

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()
        self.connection.close()


def interleave(
    workloads: Mapping[str, Workload], device: str, rounds: int, warmup: int = 1, label: str = ""
) -> dict[str, list[Sample] | Failed]:
    """Run all contestants in turn; one that fails leaves the others alone.

    Args:
        workloads: by the contestant's name; the first is built first.
        device: ``cpu`` or ``cuda``.
        rounds: how many are counted.
        warmup: how many before are not.
        label: for the progress on standard error.

    Returns:
        Each contestant's samples, in the order of the rounds, or why it failed.
    """
    results: dict[str, list[Sample] | Failed] = {name: [] for name in workloads}
    workers: dict[str, Worker] = {}
    try:
        for number in range(-1 - warmup, rounds):
            order = list(workloads) if number % 2 == 0 else list(workloads)[::-1]
            for name in order:
                samples = results[name]
                if isinstance(samples, Failed):
                    continue
                step = (
                    "building"
                    if number == -1 - warmup
                    else f"warm-up {number + warmup + 1} of {warmup}"
                    if number < 0
                    else f"round {number + 1} of {rounds}"
                )
                progress(f"{label} {step}: {name}")
                try:
                    if name not in workers:
                        workers[name] = Worker(workloads[name], device)
                    sample = workers[name].ask()
                except Failed as failure:
                    results[name] = failure
                    workers.pop(name).stop()
                    continue
                if number >= 0:
                    assert sample is not None
                    samples.append(sample)
    finally:
        progress("")
        for worker in workers.values():
            worker.stop()
    return results


def progress(text: str) -> None:
    """One line on standard error, overwritten by the next where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------ what the samples say


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    values = list(values)
    if len(values) == 1:
        values *= 2
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high}


def speed_ratio(ours: list[Sample], theirs: list[Sample]) -> dict[str, float]:
    """How many times as fast as the other, compared round by round."""
    return spread(a.speed / b.speed for a, b in zip(ours, theirs, strict=True))


def exponent(sizes: list[float], values: list[float]) -> float:
    """The slope of a straight line through log(values) over log(sizes), least squares."""
    import math

    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(value) for value in values]
    ).slope


def machine(device: str) -> dict[str, Any]:
    """Where it ran: processor, memory, threads, versions, and how busy it was before."""
    import platform
    from importlib import metadata

    import torch

    model = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        model = next(
            (li.split(":")[1].strip() for li in lines if li.startswith("model name")), model
        )
    versions = {"python": platform.python_version()}
    for package in (
        "fairseq-mem", "fairseq-fixed", "torch", "numpy", "x-transformers", "ctranslate2",
    ):  # fmt: skip
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": bf16_supported(),
        "memory_gib": round(_status("MemTotal", "/proc/meminfo") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "load_before": round(os.getloadavg()[0], 2),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("OMP_", "MKL_", "MALLOC_", "ONEDNN_", "LD_PRELOAD"))
        },
        "versions": versions,
    }


def bf16_supported() -> bool:
    """Whether this processor computes in bfloat16."""
    import torch

    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
