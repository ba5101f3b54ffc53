"""A request from its bytes to its answer: everything between HTTP and the models."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fairseq_mem_text.pipeline import TooLong

from ..protocol import Hypothesis
from .batching import Batcher, Job
from .interface import Request, read_request
from .metrics import Metrics
from .models import Model, Models
from .sentences import Divided, divide, put_together
from .settings import Refused, Settings

TEXT_THREADS = 4  # they prepare texts; a long one shall not hold up the others
SMALL = 2000  # bytes of a body that is prepared at once, not in such a thread

logger = logging.getLogger(__name__)


class ClientLeft(Exception):
    """Nobody waits for the answer."""


@dataclass
class Prepared:
    """A request, ready to be translated."""

    request: Request
    model: Model
    texts: list[Divided]
    sources: list[list[str]]  # the tokens of all sentences, text by text


class Service:
    """Translates requests; one for the process.

    Attributes:
        stopping: no new requests are taken.
    """

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self.models, self.settings, self.metrics = models, settings, metrics
        self.stopping = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self._batcher = Batcher(
            settings.threads, settings.max_batch_tokens, settings.max_wait_ms / 1000, metrics
        )
        self._text_threads = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")
        self._given_up = False

    @property
    def status(self) -> str:
        """Whether requests are taken: ``ok``, ``stopping`` or ``failed``."""
        if self.stopping:
            return "stopping"
        return "ok" if self._batcher.alive else "failed"

    def give_up(self) -> None:
        """Answer what is still under way with 503."""
        self._given_up = True
        for task in self._under_way:
            task.cancel()

    def end(self) -> bool:
        """Let the threads end; whether they did."""
        self._text_threads.shutdown(wait=False, cancel_futures=True)
        return self._batcher.end()

    async def answer(
        self,
        read: Callable[[], Awaitable[bytes]],
        content_type: str,
        key: str | None,
        left: Callable[[], Awaitable[None]],
    ) -> tuple[dict[str, Any], str]:
        """Answer a request for a translation.

        Args:
            read: returns the body.
            content_type: of the body.
            key: out of the headers.
            left: returns when the client has gone away.

        Returns:
            The answer and a line for the log.

        Raises:
            Refused: it is not carried out.
            ClientLeft: before it was done.
        """
        if self.stopping:
            raise _stopping()
        if len(self._under_way) >= self.settings.max_requests:
            raise Refused(
                429,
                f"{self.settings.max_requests:,} requests are under way, no more are taken; try "
                "again in a moment",
                {"Retry-After": "1"},
            )
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        self.metrics.under_way.inc()
        try:
            return await self._answer(read, content_type, key, left)
        except asyncio.CancelledError:
            if self._given_up:
                raise _stopping() from None
            raise
        finally:
            self._under_way.discard(task)
            self.metrics.under_way.dec()

    async def _answer(
        self,
        read: Callable[[], Awaitable[bytes]],
        content_type: str,
        key: str | None,
        left: Callable[[], Awaitable[None]],
    ) -> tuple[dict[str, Any], str]:
        seconds = self.settings.request_seconds
        end = time.monotonic() + seconds
        if key is not None:
            self._check_key(key)
        try:
            body = await asyncio.wait_for(read(), seconds)
        except TimeoutError:
            raise Refused(
                408, f"the body did not come in {seconds:g} seconds", {"Connection": "close"}
            ) from None
        watch = asyncio.ensure_future(left())
        job: Job | None = None
        stop = _Stop()
        try:
            prepared = await self._within(self._prepared(body, content_type, key, stop), watch, end)
            request = prepared.request
            job = Job(prepared.model.translator, prepared.sources, request.beam, request.nbest)
            self._batcher.submit(job)
            found = await self._within(asyncio.wrap_future(job.future), watch, end)
        except CancelledError:  # the batcher's
            raise _stopping() from None
        finally:
            stop.set()
            watch.cancel()
            if job is not None and not job.future.done():
                self._batcher.cancel(job)
        pair = "-".join(prepared.model.pair)
        self.metrics.sentences.labels(pair).inc(len(found))
        self.metrics.source_tokens.labels(pair).inc(sum(map(len, prepared.sources)))
        self.metrics.target_tokens.labels(pair).inc(sum(len(f[0].tokens) for f in found))
        return _assembled(prepared, found), f"{pair} {len(found)} sentences"

    async def _within(
        self, wanted: Awaitable[Any], watch: "asyncio.Future[None]", end: float
    ) -> Any:
        """Wait for something until it is there, the client leaves, or the time is up."""
        task = asyncio.ensure_future(wanted)
        try:
            await asyncio.wait(
                (task, watch),
                timeout=max(0.0, end - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        task.cancel()
        if watch.done():
            raise ClientLeft
        raise Refused(
            504,
            f"not done in {self.settings.request_seconds:g} seconds; send less text, or try again "
            "when the server has less to do",
        )

    async def _prepared(
        self, body: bytes, content_type: str, key: str | None, stop: "_Stop"
    ) -> Prepared:
        if len(body) <= SMALL:
            return self._prepare(body, content_type, key, stop)
        return await asyncio.get_running_loop().run_in_executor(
            self._text_threads, self._prepare, body, content_type, key, stop
        )

    def _prepare(self, body: bytes, content_type: str, key: str | None, stop: "_Stop") -> Prepared:
        """Read a request, find its model, its sentences and their tokens."""
        settings = self.settings
        request = read_request(body, content_type, settings.max_sentences)
        if key is None:
            self._check_key(request.api_key)
        model = self.models.find(request.source, request.target)
        split = settings.split if request.split is None else request.split
        source = model.translator.source_language
        texts = []
        sentences = 0
        for text in request.texts:
            stop.check()
            texts.append(divide(text, source, split))
            sentences += len(texts[-1].sentences)
            if sentences > settings.max_sentences:
                raise Refused(
                    422,
                    f"q: more than {settings.max_sentences:,} sentences, which is the most a "
                    "request may have; send it in parts",
                )
        sources = []
        for number, divided in enumerate(texts):
            for index, sentence in enumerate(divided.sentences):
                stop.check()
                where = f"q[{number}]" if request.is_list else "q"
                sources.append(self._tokens(model, sentence, f"{where}, sentence {index + 1}"))
        return Prepared(request, model, texts, sources)

    def _tokens(self, model: Model, sentence: str, where: str) -> list[str]:
        most = model.translator.max_source_tokens
        if self.settings.max_sentence_tokens is not None:
            most = min(most, self.settings.max_sentence_tokens)
        try:
            tokens = model.translator.split(sentence)
            if len(tokens) + 1 > most:
                raise TooLong(len(tokens) + 1, most)
        except TooLong as error:
            raise Refused(
                422,
                f"{where}: {error.length:,} tokens or more, at most {most:,} can be translated; "
                "split it",
            ) from None
        return tokens

    def _check_key(self, key: str | None) -> None:
        keys = self.settings.api_keys
        if not keys:
            return
        if key is None:
            raise Refused(
                401,
                "this server wants an API key; send it as api_key, or as Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        if hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest() not in keys:
            raise Refused(403, "api_key: not one of this server's; ask who runs it for one")


class _Stop:
    """Tells a thread that nobody waits for it."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def check(self) -> None:
        if self._set:
            raise ClientLeft


def _stopping() -> Refused:
    return Refused(
        503,
        "the server is being stopped; try again in a moment",
        {"Retry-After": "5", "Connection": "close"},
    )


def _assembled(prepared: Prepared, found: list[list[Hypothesis]]) -> dict[str, Any]:
    """The answer, in the form of the question."""
    request, target = prepared.request, prepared.model.translator.target_language
    texts, alternatives, sentences = [], [], []
    start = 0
    for divided in prepared.texts:
        of_text = found[start : start + len(divided.sentences)]
        start += len(divided.sentences)
        # A search may find fewer than were asked for: then the last of them stands again.
        ranks = max((len(f) for f in of_text), default=1)
        joined = [
            put_together([f[min(k, len(f) - 1)].text for f in of_text], divided.gaps, target)
            for k in range(ranks)
        ]
        texts.append(joined[0])
        alternatives.append(joined[1:])
        sentences.append(
            [
                {
                    "source": sentence,
                    "translations": [{"text": h.text, "score": h.score} for h in f],
                }
                for sentence, f in zip(divided.sentences, of_text, strict=True)
            ]
        )
    answer: dict[str, Any] = {"translatedText": texts}
    if request.nbest > 1:
        answer["alternatives"] = alternatives
    if request.scores:
        answer["sentences"] = sentences
    if request.source == "auto":
        only = {"language": prepared.model.translator.source_language, "confidence": 0.0}
        answer["detectedLanguage"] = [only for _ in texts]
    if request.is_list:
        return answer
    return {name: values[0] for name, values in answer.items()}
