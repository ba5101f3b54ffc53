"""Limits, batches, scores and order, whatever the engine is."""

import json

import pytest
from fairseq_mem_serve import (
    Batch,
    Found,
    NotText,
    TextPipeline,
    TooLong,
    Translator,
)
from fairseq_mem_serve.translator import LEAST_COST, batched_by_length


class Recorder:
    """An engine that repeats the source's length, and grows when it may."""

    max_source_tokens, max_target_tokens = 50, 30

    def __init__(self, parallel=1):
        self.batches: list[Batch] = []
        self.parallel = parallel

    def search(self, batches, beam, length_penalty):
        for batch in batches:
            self.batches.append(batch)
            yield [
                [
                    Found(["a"] * min(2 * len(source), batch.max_tokens), -1.0),
                    Found(["b"] * min(len(source), batch.max_tokens), -1.5),
                ]
                for source in batch.sources
            ]


def plain(engine):
    return Translator(engine, TextPipeline("de", "en", codes=None, tokenizer=None))


def test_limits_are_fairseqs_of_each_sentence_alone():
    engine = Recorder()
    found = plain(engine).translate_nbest(
        ["x " * 3, "x " * 10, "x " * 4], nbest=2, max_len_a=1.3, max_len_b=0.5
    )
    # int(1.3 * (3 + 1) + 0.5), and so on, with the end mark in the source as fairseq counts it
    limits = [5, 14, 7]
    assert [len(h[0].tokens) for h in found] == [
        min(2 * n, limit) for n, limit in zip((3, 10, 4), limits)
    ]
    first, *again = engine.batches
    assert (len(first.sources), first.max_tokens) == (3, 14)
    # those that grew beyond their own limit, once more
    assert [(len(b.sources[0]), b.max_tokens) for b in again] == [(3, 5), (4, 7)]
    plain(engine).translate(["x " * 49], max_len_a=1e308)
    assert engine.batches[-1].max_tokens == engine.max_target_tokens - 1


def test_scores_and_ranking_follow_the_length_penalty():
    for penalty, best in ((1.0, "a"), (0.0, "a"), (-1.0, "b")):
        (found,) = plain(Recorder()).translate_nbest(["x x x"], nbest=2, length_penalty=penalty)
        assert found[0].tokens[0] == best
        expected = {"a": -1.0 / 7**penalty, "b": -1.5 / 4**penalty}
        assert [h.score for h in found] == [expected[h.tokens[0]] for h in found]
        assert found[0].score >= found[1].score


def test_batches_hold_sentences_of_a_length_and_no_more_tokens_than_asked():
    lengths = [3, 40, 1, 12, 40, 30, 1, 1, 25, 12]
    batches = list(batched_by_length(list(range(len(lengths))), lengths, 100))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) * max(lengths[batch[0]] + 1, LEAST_COST) <= 100
    assert len(batches) == 3  # 40 40, 30 25 12, 12 3 1 1 1
    # short sentences are searched for as long as others
    assert [len(b) for b in batched_by_length(list(range(8)), [1] * 8, 100)] == [6, 2]
    assert [len(b) for b in batched_by_length([0, 1], lengths, 1)] == [1, 1]


def test_batches_count_the_lengths_that_are_given():
    engine, sources = Recorder(), [["x"]] * 4
    lengths = [39, 1, 39, 1]
    plain(engine).translate_tokens(sources, batch_tokens=80, lengths=lengths)
    assert [list(batch.indices) for batch in engine.batches] == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="4 sources and 3 lengths; give as many"):
        plain(engine).translate_tokens(sources, lengths=lengths[:3])


@pytest.mark.parametrize(
    ("parallel", "sentences", "batches"),
    # 20 tokens each, with the end mark; all fit into one batch of 4,000, but it would be alone
    [(1, 200, 1), (2, 200, 4), (4, 200, 8), (2, 40, 2), (2, 25, 1), (2, 2000, 10)],
)
def test_batches_are_small_enough_for_all_to_have_work(parallel, sentences, batches):
    engine = Recorder(parallel)
    plain(engine).translate(["x " * 19] * sentences, max_len_b=100)
    assert len(engine.batches) == batches
    engine.batches.clear()
    plain(engine).translate(["x " * 19] * sentences, batch_tokens=100, max_len_b=100)
    assert len(engine.batches) == -(-sentences // 5)


def test_progress_is_told_batch_by_batch():
    told: list[int] = []
    sources = [["x"] * 20, [], *[["x"] * 9] * 6]
    translator = plain(Recorder())
    translator.translate_tokens(sources, batch_tokens=48, max_len_a=1.0, progress=told.append)
    assert told == [2, 3, 2]  # once each, also of those that are searched for again


def test_blank_sentences_and_order():
    engine = Recorder()
    found = plain(engine).translate_nbest(["", "x", "  \t", "x x", "\n"])
    assert [[h.text for h in hypotheses] for hypotheses in found] == [
        [""], ["a a"], [""], ["a a a a"], [""]
    ]  # fmt: skip
    assert found[0][0].score == 0 and found[0][0].tokens == []
    assert all(source for batch in engine.batches for source in batch.sources)
    assert plain(engine).translate([]) == []


def test_options_that_make_no_sense():
    translator = plain(Recorder())
    for options, message in (
        ({"nbest": 5}, "nbest 5 with beam 4"),
        ({"nbest": 0}, "nbest 0"),
        ({"batch_tokens": 0}, "batch_tokens 0"),
        ({"length_penalty": 300.0}, "length_penalty 300.0: give a number from -10 to 10"),
        ({"length_penalty": float("nan")}, "length_penalty nan"),
        ({"max_len_a": 0.0, "max_len_b": 0.9}, "allow no translation"),
    ):
        with pytest.raises(ValueError, match=message):
            translator.translate_nbest(["x"], **options)
    for sentences in ("x", b"x", {"x": 1}, 7, None):
        for call in (translator.translate, translator.translate_tokens):
            with pytest.raises(TypeError, match="list of sentences"):
                call(sentences)
    with pytest.raises(TooLong, match=r"sentence 1 .* has 51 tokens") as caught:
        translator.translate(["x", "x " * 50])
    assert caught.value.index == 1


@pytest.mark.parametrize("odd", [None, 7, 1.5, True, b"eins", ["eins"], {"a": 1}])
def test_what_is_no_text_is_told_by_its_place(odd):
    """As JSON from outside may hold it; the message does not repeat the other sentences."""
    engine = Recorder()
    with pytest.raises(NotText, match=r"^sentence 1 .* is no text, but of type \w+$") as caught:
        plain(engine).translate(["secret", odd, "x"])
    assert caught.value.index == 1 and isinstance(caught.value, ValueError)
    for tokens in (odd, ["a", odd], "ab"):
        if tokens != ["eins"]:
            with pytest.raises(NotText, match=r"^sentence 1 .* is no text") as caught:
                plain(engine).translate_tokens([["secret"], tokens])
    assert engine.batches == []


def test_a_lone_surrogate_is_read_as_the_replacement_character(served):
    odd = json.loads(r'"eins \ud83d zwei \ude00\ud800"')
    plain_text = "eins \ufffd zwei \ufffd\ufffd"
    assert served.split(odd) == served.split(plain_text)
    assert served.translate([odd, "eins."]) == served.translate([plain_text, "eins."])
    assert served.translate_tokens([["eins", odd]]) == served.translate_tokens(
        [["eins", plain_text]]
    )
    # what is Unicode stays, a pair of surrogates as the character that it means
    for text in ("\ufeff\U0001f600ü\0\u2028", "\ud83d\ude00"):
        engine = Recorder()
        plain(engine).translate_tokens([[text]])
        assert engine.batches[0].sources == [[text.replace("\ud83d\ude00", "\U0001f600")]]
