"""The server's limits in number and time, with a model that is as slow as a test wants it."""

import asyncio
import json
import threading

import pytest
from fairseq_mem_serve import Hypothesis
from fairseq_mem_serve.http.app import make_app
from fairseq_mem_serve.http.metrics import Metrics
from fairseq_mem_serve.http.models import Model
from fairseq_mem_serve.http.service import ClientLeft, Service
from fairseq_mem_serve.http.settings import Refused, Settings

HANGS = 60
BODY = json.dumps({"q": "a", "source": "de", "target": "en"}).encode()


class Slow:
    """In place of a translator: translates when it is let."""

    source_language, target_language, max_source_tokens = "de", "en", 100

    def __init__(self):
        self.free, self.begun, self.sentences = threading.Event(), threading.Event(), 0

    def split(self, sentence):
        return sentence.split()

    def translate_tokens(self, sources, *, beam, nbest, batch_tokens):
        self.begun.set()
        assert self.free.wait(HANGS)
        if ["fail"] in sources:
            raise MemoryError
        self.sentences += len(sources)
        return [[Hypothesis("b", -1.0, ["b"])] for _ in sources]


class OneModel:
    def __init__(self, translator):
        self.model = Model(None, translator)

    def find(self, source, target):
        return self.model


@pytest.fixture
def run():
    """Runs a coroutine function with a service and its model."""

    def run(what, **settings):
        translator = Slow()
        service = Service(OneModel(translator), Settings(max_wait_ms=0, **settings), Metrics())
        try:
            return asyncio.run(asyncio.wait_for(what(service, translator), HANGS))
        finally:
            translator.free.set()
            assert service.end()

    return run


def ask(service, body=BODY, left=None):
    async def read():
        return body

    async def never():
        await asyncio.Event().wait()

    return asyncio.ensure_future(service.answer(read, "application/json", None, left or never))


async def begun(translator):
    await asyncio.get_running_loop().run_in_executor(None, translator.begun.wait, HANGS)


async def refusal(task):
    with pytest.raises(Refused) as refused:
        await task
    return refused.value.status


def test_more_requests_than_allowed_are_sent_away(run):
    async def what(service, translator):
        tasks = [ask(service) for _ in range(2)]
        await begun(translator)
        assert await refusal(ask(service)) == 429
        translator.free.set()
        for task in tasks:
            assert (await task)[0] == {"translatedText": "b"}
        assert (await ask(service))[0] == {"translatedText": "b"}

    run(what, max_requests=2)


def test_a_request_has_its_time(run):
    async def what(service, translator):
        assert await refusal(ask(service)) == 504
        translator.free.set()
        assert (await ask(service))[0] == {"translatedText": "b"}

    run(what, request_seconds=0.5)


def test_a_body_has_its_time(run):
    async def what(service, translator):
        async def never():
            await asyncio.Event().wait()

        assert await refusal(service.answer(never, "", None, never)) == 408

    run(what, request_seconds=0.2)


def test_who_leaves_is_not_translated_for(run):
    async def what(service, translator):
        first = ask(service)
        await begun(translator)
        gone = asyncio.Event()
        body = json.dumps({"q": ["a"] * 50, "source": "de", "target": "en"}).encode()
        leaves = ask(service, body, gone.wait)
        await asyncio.sleep(0.1)
        gone.set()
        with pytest.raises(ClientLeft):
            await leaves
        translator.free.set()
        await first
        assert (await ask(service))[0] and translator.sentences == 2

    run(what)


def test_a_model_that_fails_is_a_mistake_of_the_server_alone(run):
    async def what(service, translator):
        translator.free.set()
        with pytest.raises(MemoryError):
            await ask(service, BODY.replace(b'"a"', b'"fail"'))
        assert (await ask(service))[0] and service.status == "ok"

    run(what)


def test_while_it_stops_none_are_taken_and_what_is_late_is_told(run):
    async def what(service, translator):
        late = ask(service)
        await begun(translator)
        service.stopping = True
        assert service.status == "stopping"
        assert await refusal(ask(service)) == 503
        service.give_up()
        assert await refusal(late) == 503

    run(what)


def test_a_mistake_of_the_servers_is_told_without_what_was_sent(run, caplog):
    async def what(service, translator):
        translator.free.set()
        service.models.pairs = [("de", "en")]
        sent = []
        bodies = [BODY.replace(b'"a"', b'"fail geheim"')]

        async def receive():
            if bodies:
                return {"type": "http.request", "body": bodies.pop()}
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        def fails(*_, **__):
            raise RuntimeError("fail geheim")

        translator.split = fails
        scope = {
            "type": "http", "method": "POST", "path": "/translate", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "root_path": "",
        }  # fmt: skip
        await make_app(service)(scope, receive, send)  # must not raise
        assert sent[0]["status"] == 500
        assert list(json.loads(sent[1]["body"])) == ["error"]
        assert b"geheim" not in sent[1]["body"]

    run(what)
    assert "RuntimeError" in caplog.text and "geheim" not in caplog.text
