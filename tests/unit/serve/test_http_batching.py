"""The server's queue: who is translated with whom, who waits how long, and who never is."""

import threading
import time

import pytest
from fairseq_mem_serve import Hypothesis
from fairseq_mem_serve.http.batching import Batcher, Job
from fairseq_mem_serve.http.metrics import Metrics

HANGS = 60


class Recorder:
    """In place of a translator: remembers its batches, and can be held."""

    def __init__(self):
        self.batches = []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()

    def translate_tokens(self, sources, *, beam, nbest, batch_tokens):
        self.batches.append([source[0] for source in sources])
        self.busy.set()
        assert self.free.wait(HANGS)
        if any("bad" in source for source in sources):
            raise RuntimeError("no memory")
        return [[Hypothesis(f"{s[0]}/{k}", -k, s) for k in range(nbest)] for s in sources]


@pytest.fixture
def translator():
    return Recorder()


@pytest.fixture
def make():
    made = []

    def make(threads=1, max_batch_tokens=10_000, max_wait=0.0):
        made.append(Batcher(threads, max_batch_tokens, max_wait, Metrics()))
        return made[-1]

    yield make
    assert all(batcher.end() for batcher in made)


def job(translator, *names, beam=4, nbest=1, length=1):
    return Job(translator, [[name] * length for name in names], beam, nbest)


def texts(job):
    return [[h.text for h in found] for found in job.future.result(HANGS)]


def hold(batcher, translator):
    """Let the only thread be busy; returns its job."""
    translator.free.clear()
    first = job(translator, "first")
    batcher.submit(first)
    assert translator.busy.wait(HANGS)
    return first


def test_what_waits_goes_together_each_with_its_own_number(make, translator):
    batcher = make()
    hold(batcher, translator)
    jobs = [job(translator, "a", "b", nbest=2), job(translator, "c"), job(translator, "d", beam=5)]
    for each in jobs:
        batcher.submit(each)
    translator.free.set()
    assert [texts(each) for each in jobs] == [
        [["a/0", "a/1"], ["b/0", "b/1"]],
        [["c/0"]],
        [["d/0"]],
    ]
    assert translator.batches == [["first"], ["a", "c", "b"], ["d"]]


def test_requests_take_turns_and_a_batch_has_its_limit(make, translator):
    batcher = make(max_batch_tokens=4 * 101)
    hold(batcher, translator)
    long = job(translator, *"abcdefgh", length=100)
    short = job(translator, "x", length=100)
    for each in (long, short):
        batcher.submit(each)
    translator.free.set()
    assert texts(short) == [["x/0"]] and len(texts(long)) == 8
    assert translator.batches[1:] == [["a", "x", "b", "c"], ["d", "e", "f", "g"], ["h"]]


def test_another_kind_does_not_wait_until_a_long_request_is_through(make, translator):
    batcher = make(max_batch_tokens=2 * 101)
    hold(batcher, translator)
    for each in (long := job(translator, *"abcdef", length=100), job(translator, "x", beam=5)):
        batcher.submit(each)
    translator.free.set()
    assert len(texts(long)) == 6
    assert translator.batches[1:3] == [["a", "b"], ["x"]]


def test_company_is_waited_for_but_not_for_long(make, translator):
    batcher = make(max_wait=0.3)
    begun = time.monotonic()
    jobs = [job(translator, "a"), job(translator, "b")]
    for each in jobs:
        batcher.submit(each)
    assert [texts(each) for each in jobs] == [[["a/0"]], [["b/0"]]]
    assert translator.batches == [["a", "b"]]
    assert time.monotonic() - begun >= 0.3


def test_a_full_batch_waits_for_nobody(make, translator):
    batcher = make(max_batch_tokens=300, max_wait=HANGS * 10)
    full = job(translator, "a", "b", "c", length=100)
    batcher.submit(full)
    assert translator.busy.wait(HANGS)
    assert translator.batches[0] == ["a", "b"]
    batcher.cancel(full)


def test_what_nobody_waits_for_is_not_translated(make, translator):
    batcher = make()
    hold(batcher, translator)
    gone, stays = job(translator, "gone", "gone too"), job(translator, "stays")
    for each in (gone, stays):
        batcher.submit(each)
    batcher.cancel(gone)
    translator.free.set()
    assert texts(stays) == [["stays/0"]] and gone.future.cancelled()
    assert translator.batches == [["first"], ["stays"]]


def test_a_failure_is_only_of_the_request_that_fails(make, translator):
    batcher = make()
    first = hold(batcher, translator)
    bad, good = job(translator, "bad"), job(translator, "good")
    for each in (bad, good):
        batcher.submit(each)
    translator.free.set()
    assert texts(first) == [["first/0"]] and texts(good) == [["good/0"]]
    with pytest.raises(RuntimeError, match="no memory"):
        bad.future.result(HANGS)
    assert batcher.alive


def test_idle_threads_share_what_waits(make, translator):
    batcher = make(threads=2, max_wait=0.2)
    translator.free.clear()
    many = job(translator, *map(str, range(20)), length=99)
    batcher.submit(many)
    begun = time.monotonic()
    while len(translator.batches) < 2 and time.monotonic() < begun + HANGS:
        time.sleep(0.01)
    translator.free.set()
    assert len(texts(many)) == 20
    assert sorted(map(len, translator.batches)) == [10, 10]


def test_at_the_end_what_waits_is_given_back(make, translator):
    batcher = make()
    hold(batcher, translator)
    waits = job(translator, "waits")
    batcher.submit(waits)
    ending = threading.Thread(target=batcher.end)
    ending.start()
    translator.free.set()
    ending.join(HANGS)
    assert waits.future.cancelled() and translator.batches == [["first"]]
