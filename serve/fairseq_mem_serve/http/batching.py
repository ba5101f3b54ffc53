"""Sentences of requests that wait at the same time are translated together.

A few threads each take a batch, as soon as they are free: of the request that has waited longest
for its turn, and of others for the same model and beam. While it is not full a batch waits for
company, but no sentence longer than the stated time. Requests take turns, a sentence each, so that
a short one need not wait until a long one is through. A translation never depends on the company,
but for rounding: that is the translator's promise.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future

from ..protocol import Hypothesis
from ..translator import Translator, cost_of
from .metrics import Metrics

LEAST_SHARE = 500  # tokens; smaller batches are not made for the sake of a thread that is idle
MOST_SECONDS_TO_END = 1.0  # for threads that have nothing more to do

logger = logging.getLogger(__name__)

Found = list[Hypothesis]


class Job:
    """The sentences of one request.

    Attributes:
        future: their translations, each the ``nbest`` best; cancelled when nobody wants them.
    """

    def __init__(
        self, translator: Translator, sources: Sequence[list[str]], beam: int, nbest: int
    ) -> None:
        self.translator, self.sources, self.beam, self.nbest = translator, sources, beam, nbest
        self.future: Future[list[Found]] = Future()
        self.begun = 0  # sentences given to a thread
        self.since = time.monotonic()
        self._found: list[Found | None] = [None] * len(sources)
        self._missing = len(sources)
        if not sources:
            self.future.set_result([])

    @property
    def kind(self) -> tuple[int, int]:
        """What can be translated together has the same."""
        return id(self.translator), self.beam

    def deliver(self, index: int, found: Found) -> None:
        """Put in one sentence's translations; the batcher's lock is held."""
        self._found[index] = found[: self.nbest]
        self._missing -= 1
        if self._missing == 0 and self.future.set_running_or_notify_cancel():
            self.future.set_result([f for f in self._found if f is not None])

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits that there will be no translations."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """The queue, and the threads that work on it.

    Args:
        threads: batches that are translated side by side.
        max_batch_tokens: source tokens of a batch; one sentence may have more.
        max_wait: seconds.
        metrics: where it is counted.
    """

    def __init__(
        self, threads: int, max_batch_tokens: int, max_wait: float, metrics: Metrics
    ) -> None:
        self._max_batch_tokens, self._max_wait, self._metrics = max_batch_tokens, max_wait, metrics
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()  # jobs with sentences that nobody has taken
        self._idle = 0
        self._ended = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Put a job into the queue."""
        with self._changed:
            if self._ended:
                raise CancelledError
            if not job.future.done():
                self._queue.append(job)
                self._metrics.queued.inc(len(job.sources))
                self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Nobody wants a job's translations: what has not begun never will."""
        with self._changed:
            job.future.cancel()
            if job in self._queue:
                self._queue.remove(job)
                self._metrics.queued.dec(len(job.sources) - job.begun)

    @property
    def alive(self) -> bool:
        """Whether all threads work."""
        return all(thread.is_alive() for thread in self._threads)

    def end(self) -> bool:
        """Let the threads end when they have done what they do; whether they did, in a moment."""
        with self._changed:
            self._ended = True
            for job in self._queue:
                job.future.cancel()
            self._queue.clear()
            self._changed.notify_all()
        until = time.monotonic() + MOST_SECONDS_TO_END
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # ---------------------------------------------------------------- in a thread

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._translate(batch)
            # or the last batch's jobs would live until there is another one
            del batch

    def _next(self) -> "list[tuple[Job, int]] | None":
        """Wait for a batch: jobs, and which of their sentences; None at the end."""
        with self._changed:
            self._idle += 1
            try:
                while not self._ended:
                    if not self._queue:
                        self._changed.wait()
                        continue
                    oldest = self._queue[0]
                    left = oldest.since + self._max_wait - time.monotonic()
                    if left > 0 and self._waiting(oldest) < self._max_batch_tokens:
                        self._changed.wait(left)
                        continue
                    return self._take(oldest)
                return None
            finally:
                self._idle -= 1

    def _waiting(self, like: Job) -> int:
        """The tokens that wait and could go together, or as many as a batch holds."""
        total = 0
        for job in self._queue:
            if job.kind == like.kind:
                for source in job.sources[job.begun :]:
                    total += cost_of(len(source))
                    if total >= self._max_batch_tokens:
                        return total
        return total

    def _take(self, oldest: Job) -> list[tuple[Job, int]]:
        """Take sentences out of the queue, the first of ``oldest``, then each job's in turn."""
        share = max(LEAST_SHARE, self._waiting(oldest) // self._idle)
        most = min(self._max_batch_tokens, share)
        now = time.monotonic()
        batch: list[tuple[Job, int]] = []
        tokens = 0
        turns = deque(job for job in self._queue if job.kind == oldest.kind)
        while turns:
            job = turns.popleft()
            cost = cost_of(len(job.sources[job.begun]))
            if batch and tokens + cost > most:
                break
            tokens += cost
            batch.append((job, job.begun))
            job.begun += 1
            self._metrics.waited.observe(now - job.since)
            if job.begun < len(job.sources):
                turns.append(job)
        done = {job for job, _ in batch if job.begun == len(job.sources)}
        taken = dict.fromkeys(job for job, _ in batch)
        # Those that were served come behind those that were not.
        self._queue = deque(
            [job for job in self._queue if job not in taken]
            + [job for job in taken if job not in done]
        )
        self._metrics.queued.dec(len(batch))
        self._metrics.batch.observe(len(batch))
        return batch

    def _translate(self, batch: list[tuple[Job, int]]) -> None:
        """Translate a batch; if that fails each job's part alone, so that none harms another."""
        try:
            self._deliver(batch, self._search(batch))
        except Exception as error:  # of CTranslate2: no memory, for instance
            logger.error("a batch of %d sentences failed: %s", len(batch), type(error).__name__)
            for job in dict.fromkeys(job for job, _ in batch):
                own = [pair for pair in batch if pair[0] is job]
                try:
                    self._deliver(own, self._search(own))
                except Exception as again:
                    self._drop(job, again)

    def _search(self, batch: list[tuple[Job, int]]) -> list[Found]:
        first = batch[0][0]
        return first.translator.translate_tokens(
            [job.sources[index] for job, index in batch],
            beam=first.beam,
            nbest=max(job.nbest for job, _ in batch),
            batch_tokens=self._max_batch_tokens,
        )

    def _deliver(self, batch: list[tuple[Job, int]], found: list[Found]) -> None:
        with self._changed:
            for (job, index), of_sentence in zip(batch, found, strict=True):
                job.deliver(index, of_sentence)

    def _drop(self, job: Job, error: Exception) -> None:
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._metrics.queued.dec(len(job.sources) - job.begun)
            job.fail(error)
