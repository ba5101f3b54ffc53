"""Work on the chunks of a text by several processes, with the results in the chunks' order."""

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any


def start_worker(prepare: Callable[..., None], *arguments: Any) -> None:
    """What a worker does first: leave Ctrl-C to its parent, which answers it once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare(*arguments)


def prepare_nothing() -> None:
    """For workers that need no preparation."""


@contextlib.contextmanager
def worker_pool(workers: int, prepare: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A pool of ``workers`` processes, each of which calls ``prepare`` first."""
    pool = ProcessPoolExecutor(workers, initializer=start_worker, initargs=(prepare, *arguments))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: ProcessPoolExecutor, work: Callable[[Any], Any], chunks: Iterable[Any], workers: int
) -> Iterator[Any]:
    """`work` on every chunk, on all cores, results in the order of the chunks.

    Only a few chunks are under way at any time, so memory doesn't grow with the corpus.
    """
    pending: deque[Future[Any]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(work, chunk))
        if len(pending) >= 4 * workers:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
