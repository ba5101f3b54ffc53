"""fairseq-mem-serve: the training text's pipeline, fairseq's limits and scores, no fairseq."""

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq_mem_serve import (
    Batch,
    Found,
    NotText,
    TextPipeline,
    TooLong,
    Translator,
    load_translator,
)
from fairseq_mem_serve.engine import CTranslate2Engine
from fairseq_mem_serve.text import BPE_MARK
from fairseq_mem_serve.translator import LEAST_COST, batched_by_length
from helpers import number_translator
from helpers.commands import ROOT
from helpers.preprocessing import GERMAN, run_corpus

from fairseq_mem.tools import translate

SERVE = ROOT / "serve"
FILES = {"raw.de", "raw.en", "tok", "tok.de", "code", "bpe"}
SENTENCES = [german for german, _ in number_translator.pairs(40, seed=7)]


@pytest.fixture(scope="module")
def served(translator_files):
    return load_translator(translator_files.exported, threads=1)


@pytest.fixture(scope="module")
def by_fairseq(translator_files):
    """The same model and the same pipeline, with fairseq's generator."""
    args = argparse.Namespace(
        model=str(translator_files.checkpoint), data=str(translator_files.data), device="cpu",
        source_lang=None, target_lang=None, threads=None, tokenizer=None, bpe_codes=None,
    )  # fmt: skip
    return translate.load_checkpoint(args)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("option", "how"),
    [
        (None, {}),
        ("--no-normalize", {"normalize": False}),
        ("--remove-nonprinting", {"remove_nonprinting": True}),
        ("--nfc", {"nfc": True}),
    ],
)
def test_text_is_treated_as_preprocess_treats_training_text(tmp_path, option, how):
    lines = [*GERMAN, "Sie sagte: „Er kam.“", "\ttabs  and\u00a0spaces \u2028 inside ", "x\r"]
    lines += ["so\u00adfort\tnull\u200b  breit \x07", "\u200e „Er\ue000“\u200f \x1f", "\u200b"]
    lines += ["fu\u0308r A\u030a\u2026 \u1100\u1161", "n" + "\u0308" * 40 + "u\u0308"]
    (tmp_path / "raw.de").write_bytes("".join(f"{line}\n" for line in lines).encode())
    (tmp_path / "raw.en").write_text("x\n" * len(lines))
    for words in (
        ["tokenize", "--source-lang", "de", "--target-lang", "en", "raw.de", "raw.en", "tok"],
        ["learn-bpe", "--merges", 120, "--output", "code", "tok.de"],
        ["apply-bpe", "--codes", "code", "tok.de", "bpe"],
    ):
        if words[0] == "tokenize" and option:
            words.append(option)
        done = run_corpus(*(tmp_path / w if w in FILES else w for w in words))
        assert done.returncode == 0, done.stderr
    expected = [line.split() for line in (tmp_path / "bpe").read_text().split("\n")[:-1]]
    pipeline = TextPipeline("de", "en", codes=tmp_path / "code", **how)
    assert [pipeline.split(line) for line in lines] == expected
    assert any(token.endswith(BPE_MARK) for tokens in expected for token in tokens)
    assert ("nfc" in how) == (pipeline.split("fu\u0308r") == pipeline.split("für"))
    # Merges that were edited where files begin with a byte order mark are the same merges.
    (tmp_path / "code").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "code").read_bytes())
    pipeline = TextPipeline("de", "en", codes=tmp_path / "code", **how)
    assert [pipeline.split(line) for line in lines] == expected
    done = run_corpus(
        "apply-bpe", "--codes", tmp_path / "code", tmp_path / "tok.de", tmp_path / "again"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again").read_bytes() == (tmp_path / "bpe").read_bytes()


def test_join_undoes_bpe_and_tokenisation(translator_files):
    pipeline = TextPipeline("de", "en", codes=translator_files.data / "code")
    tokens = "&quot; th@@ r@@ ee @-@ fo@@ ld , isn &apos;t it ? &quot;".split()
    assert pipeline.join(tokens) == '"three-fold, isn\'t it?"'
    assert pipeline.join(["<s>", "one", "</s>"]) == "one"
    assert pipeline.join(["o@@"]) == "o"
    assert pipeline.join([]) == ""


def test_text_without_tokenizer_and_bpe_is_taken_as_it_is():
    pipeline = TextPipeline("de", "en", codes=None, tokenizer=None)
    assert pipeline.split(" „eins“ , zwei\n") == ["„eins“", ",", "zwei"]
    assert pipeline.join(["one", ",", "two@@"]) == "one , two@@"
    with pytest.raises(ValueError, match="'spacy' is unknown"):
        TextPipeline("de", "en", codes=None, tokenizer="spacy")


def test_a_sentence_that_is_too_long_is_told_before_it_costs_anything(translator_files):
    pipeline = TextPipeline("de", "en", codes=translator_files.data / "code")
    exact = pipeline.split("eins " * 9)
    assert pipeline.split("eins " * 9, len(exact) + 1) == exact
    with pytest.raises(TooLong) as caught:
        pipeline.split("eins " * 9, len(exact))
    assert (caught.value.length, caught.value.limit) == (len(exact) + 1, len(exact))
    # quadratic in BPE: must not get there
    pipeline._bpe = None if pipeline._bpe is None else _Refuses(pipeline._bpe)
    with pytest.raises(TooLong, match="split it"):
        pipeline.split("x" * 200_000, 1024)


class _Refuses:
    """BPE codes of which only the list is asked for."""

    def __init__(self, bpe):
        self.bpe_codes = bpe.bpe_codes


def test_the_cache_of_words_is_bounded(translator_files, monkeypatch):
    monkeypatch.setattr("fairseq_mem_serve.text.MOST_CACHED_WORDS", 20)
    pipeline = TextPipeline("de", "en", codes=translator_files.data / "code")
    for number in range(100):
        pipeline.split(f"wort{number} und{number}")
    assert len(pipeline._bpe.cache) <= 22


def test_the_cache_of_words_is_not_emptied_while_another_thread_reads_it(
    translator_files, monkeypatch
):
    """subword-nmt looks a word up, then takes it."""
    monkeypatch.setattr("fairseq_mem_serve.text.MOST_CACHED_WORDS", 1)
    pipeline = TextPipeline("de", "en", codes=translator_files.data / "code")
    pipeline.split("eins")
    read_by_another = pipeline._bpe.cache
    pipeline.split("zwei drei")
    assert "eins" in read_by_another
    assert "eins" not in pipeline._bpe.cache


# ---------------------------------------------------------------- any engine


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
    sources = [["x"] * n for n in lengths]
    batches = list(batched_by_length(list(range(len(lengths))), sources, 100))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) * max(lengths[batch[0]] + 1, LEAST_COST) <= 100
    assert len(batches) == 3  # 40 40, 30 25 12, 12 3 1 1 1
    # short sentences are searched for as long as others
    assert [len(b) for b in batched_by_length(list(range(8)), [["x"]] * 8, 100)] == [6, 2]
    assert [len(b) for b in batched_by_length([0, 1], sources, 1)] == [1, 1]


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


# ---------------------------------------------------------------- CTranslate2


def test_it_learned_enough_to_be_worth_comparing(served):
    right = [served.translate([german]) == [english] for german, english in PAIRS]
    assert sum(right) > len(right) / 2


PAIRS = number_translator.pairs(40, seed=7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam": 1},
        {"beam": 5, "length_penalty": 0.0},
        {"length_penalty": 2.0, "batch_tokens": 50},
        {"max_len_a": 0.0, "max_len_b": 4},  # cuts nearly every search short
        {"max_len_a": 0.4, "max_len_b": 1.5},  # a limit of its own for each length
    ],
)
def test_equals_fairseqs_generator(served, by_fairseq, options):
    """Memory in the encoder and in the decoder; texts and scores, at the length limit too."""
    ours = served.translate_nbest(SENTENCES, **options)
    theirs = by_fairseq.translate_nbest(SENTENCES, **options)
    assert [h[0].tokens for h in ours] == [h[0].tokens for h in theirs]
    assert [h[0].text for h in ours] == [h[0].text for h in theirs]
    for mine, reference in zip(ours, theirs, strict=True):
        penalty = options.get("length_penalty", 1.0)
        assert mine[0].score == close(reference[0].score, mine[0], penalty)


def test_nbest_is_fairseqs_also_at_the_length_limit(served, by_fairseq):
    """In the last step CTranslate2's beam is not fairseq's, and it forgets others."""
    lists, odd = 0, []
    for beam in (2, 3, 4, 6):
        for limit in (2, 4, 5, 6, 9, 12, 100):
            search = {"beam": beam, "nbest": beam, "max_len_a": 0, "max_len_b": limit}
            ours = served.translate_nbest(SENTENCES[:25], **search)
            theirs = by_fairseq.translate_nbest(SENTENCES[:25], **search)
            for mine, reference in zip(ours, theirs, strict=True):
                assert mine[0].score == close(reference[0].score, mine[0])
                lists += 1
                # not their words: two may have the same score, but for rounding
                if [m.score for m in mine] != pytest.approx([r.score for r in reference], abs=1e-4):
                    odd.append((search, mine, reference))
    assert len(odd) <= 0.01 * lists, odd[0]


def close(expected, hypothesis, penalty=1.0):
    """Within 1e-4 a token, whatever the score was divided by."""
    return pytest.approx(expected, abs=1e-4 * (len(hypothesis.tokens) + 1) ** (1 - penalty))


@pytest.mark.parametrize("penalty", [1.0, 0.6])
def test_scores_are_what_the_model_says(served, translator_files, penalty):
    """Each hypothesis' score, from the checkpoint, teacher-forced in float64."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(translator_files.checkpoint)], arg_overrides={"data": str(translator_files.data)}
    )
    model = models[0].eval().double()
    source_words, target_words = task.source_dictionary, task.target_dictionary
    for sentence in SENTENCES[:8]:
        source = [*map(source_words.index, served.split(sentence)), source_words.eos()]
        for hypothesis in served.translate_nbest([sentence], nbest=4, length_penalty=penalty)[0]:
            target = [*map(target_words.index, hypothesis.tokens), target_words.eos()]
            previous = torch.tensor([[target_words.eos(), *target[:-1]]])
            with torch.no_grad():
                logits = model(torch.tensor([source]), torch.tensor([len(source)]), previous)[0]
            log_probs = logits[0].log_softmax(-1)
            expected = sum(float(log_probs[i, t]) for i, t in enumerate(target))
            assert hypothesis.score == close(expected / len(target) ** penalty, hypothesis, penalty)


def test_what_stands_beside_a_sentence_changes_nothing(served):
    options = {"max_len_a": 0.7, "max_len_b": 2, "nbest": 1}
    together = served.translate_nbest(SENTENCES, **options)
    alone = [served.translate_nbest([sentence], **options)[0] for sentence in SENTENCES]
    assert [h[0].tokens for h in together] == [h[0].tokens for h in alone]


def test_threads_share_one_translator(translator_files, served):
    shared = load_translator(translator_files.exported, threads=1, inter_threads=2)
    expected = served.translate(SENTENCES)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: shared.translate(SENTENCES, batch_tokens=60), range(4)))
    assert results == [expected] * 4


def test_what_the_model_is(served):
    assert (served.source_language, served.target_language) == ("de", "en")
    assert served.max_source_tokens == number_translator.POSITIONS
    full = "eins " * (number_translator.POSITIONS - 1)
    assert len(served.split(full)) + 1 == number_translator.POSITIONS
    assert served.translate([full])[0]
    with pytest.raises(TooLong):
        served.translate([full + "zwei"])


def test_text_cannot_write_memory():
    """A word that is spelled as a memory slot is an unknown word."""

    class Model:
        def translate_batch(self, sources, **options):
            self.sources = sources
            raise InterruptedError

    model = Model()
    engine = CTranslate2Engine(
        model, source_prefix=["<mem-0>"], target_prefix=["<dmem-1>", "</s>"],
        start_token="<dmem-0>", vocabularies=[{"<mem-0>", "<dmem-0>", "<dmem-1>", "</s>"}] * 2,
        max_source_tokens=9, max_target_tokens=9,
    )  # fmt: skip
    with pytest.raises(InterruptedError):
        list(engine.search([Batch([["a", "<mem-0>", "<dmem-1>", "<dmem-0>"]], 5)], 2, 1.0))
    assert model.sources == [["<mem-0>", "a", "<unk>", "<unk>", "<unk>"]]


def test_text_cannot_write_the_memory_of_an_export(translator_files):
    loaded = load_translator(translator_files.exported)._engine
    assert loaded._prefixed([["<dmem-0>", "<dmem-1>", "<mem-2>", "a"]])[0][-4:] == [
        "<unk>", "<unk>", "<unk>", "a"
    ]  # fmt: skip


def test_what_fairseq_forbids_is_searched_again_without_it():
    class Result:
        def __init__(self, *hypotheses):
            self.hypotheses = hypotheses

        def scored(self, options):
            lengths = [len(tokens) for tokens in self.hypotheses]
            self.scores = [-2.0 / length ** options["length_penalty"] for length in lengths]
            return self

        def result(self):
            return self

    class Model:
        def __init__(self):
            self.calls = []

        def translate_batch(self, sources, **options):
            self.calls.append((sources, options))
            ends = {"a": [], "b": ["b"], "p": ["<pad>"]}
            return [
                Result([*(["c"] if options["suppress_sequences"] else ends[s]), "</s>"]).scored(
                    options
                )
                for (s,) in sources
            ]

        def score_batch(self, sources, targets, **options):
            assert targets == [["c"], ["c"]]
            return [SimpleNamespace(log_probs=[-2.0, -0.5])] * 2

    model = Model()
    engine = CTranslate2Engine(
        model, source_prefix=[], target_prefix=[], vocabularies=[set(), {"<pad>"}],
        max_source_tokens=9, max_target_tokens=9,
    )  # fmt: skip
    (found,) = engine.search([Batch([["a"], ["b"], ["p"]], 5)], 1, 1.0)
    # and scored as if nothing had been forbidden
    assert found == [[Found(["c"], -2.5)], [Found(["b"], -2.0)], [Found(["c"], -2.5)]]
    first, again = model.calls
    assert first[1]["min_decoding_length"] == 0
    assert again[0] == [["a"], ["p"]]
    assert again[1]["min_decoding_length"] == 1
    assert again[1]["suppress_sequences"] == [["<pad>"]]


@pytest.mark.parametrize("certain", [0.0, 1e-7, -1e-6])
def test_an_end_mark_that_is_certain_at_the_first_step(certain):
    """What float32 leaves for the others says nothing: the model is asked for all of it."""

    class Model:
        def translate_batch(self, sources, **options):
            found = SimpleNamespace(hypotheses=[["</s>", "a", "</s>"]], scores=[-0.1])
            return [SimpleNamespace(result=lambda: found)]

        def score_batch(self, sources, targets, asynchronous=False, **options):
            if asynchronous:
                first = SimpleNamespace(log_probs=[-50.0, certain])
                return [SimpleNamespace(result=lambda: first)]
            assert targets == [["</s>", "a"]]
            return [SimpleNamespace(log_probs=[-50.0, -16.0, -0.25])]

    engine = CTranslate2Engine(
        Model(), source_prefix=[], target_prefix=["</s>"], vocabularies=[set(), {"</s>"}],
        max_source_tokens=9, max_target_tokens=9,
    )  # fmt: skip
    (found,) = engine.search([Batch([["x"]], 5)], 1, 1.0)
    assert found == [[Found(["a"], -16.25)]]


# ---------------------------------------------------------------- folders


@pytest.fixture
def folder(translator_files, tmp_path):
    return Path(shutil.copytree(translator_files.exported, tmp_path / "model"))


def describe(folder, **changes):
    path = folder / "fairseq_mem.json"
    description = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in description.items() if v != "gone"}))


def test_normalisation_can_be_off(folder):
    describe(folder, normalize=False)
    assert load_translator(folder).split("„eins") != ["&quot;", "eins"]
    describe(folder, normalize="gone")
    assert load_translator(folder).split("„eins")[0] == "&quot;"


def test_control_characters_are_removed_where_the_folder_says_so(folder):
    soft = "ei\u00adns"
    plain = load_translator(folder).split("eins")
    assert load_translator(folder).split(soft) != plain  # an older export says nothing
    describe(folder, remove_nonprinting=True)
    assert load_translator(folder).split(soft) == plain


def test_characters_are_composed_where_the_folder_says_so(folder):
    plain = load_translator(folder).split("fünf")
    assert load_translator(folder).split("fu\u0308nf") != plain  # an older export says nothing
    describe(folder, nfc=True)
    assert load_translator(folder).split("fu\u0308nf") == plain


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "fairseq_mem.json").unlink(), FileNotFoundError, "fairseq-mem export"),
        (lambda f: (f / "fairseq_mem.json").write_text("{"), ValueError, "is damaged"),
        (lambda f: (f / "fairseq_mem.json").write_text("[]"), ValueError, "is damaged"),
        (lambda f: describe(f, format=2), ValueError, "format 2, .* reads format 1"),
        (lambda f: describe(f, target_prefix="gone"), ValueError, "lacks target_prefix"),
        (
            lambda f: describe(f, source_prefix=["<mem-77>"]),
            ValueError,
            "lacks its memory, <mem-77",
        ),
        (lambda f: (f / "source_vocabulary.json").unlink(), ValueError, "lacks its source vocab"),
        (lambda f: describe(f, decoder_start_token="</s>"), ValueError, "different decoder_start"),
        (lambda f: describe(f, text_end="<e>"), ValueError, "lacks its memory, <e>"),
        (lambda f: describe(f, compute_type="int3"), ValueError, "cannot load .*int3"),
        (
            lambda f: describe(f, normalize=[1] * 999),
            ValueError,
            r"fairseq_mem.json is damaged: \$.normalize is \[1, 1, .*\.\.\.; export",
        ),
        (lambda f: describe(f, sha256={"../code": "0" * 64}), ValueError, "is damaged: .*sha256"),
        (lambda f: describe(f, sha256={"code": "0" * 64}), ValueError, "code is damaged: its SHA"),
        (lambda f: (f / "code").unlink(), ValueError, "code is missing"),
        (
            lambda f: (f / "code").write_text("#version: 9.9\na b\n"),
            ValueError,
            "code holds no BPE",
        ),
        (lambda f: (f / "code").write_text("x"), ValueError, "code holds no BPE merges"),
        (lambda f: (f / "code").write_bytes(b"\xff"), ValueError, "code holds no BPE merges"),
        (lambda f: (f / "model.bin").unlink(), ValueError, "model.bin is missing"),
        (lambda f: (f / "model.bin").write_bytes(b"x"), ValueError, "cannot load .*model.bin"),
    ],
)
def test_folders_that_are_no_models(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        load_translator(folder)


# ---------------------------------------------------------------- alone

USE = """
import sys
from fairseq_mem_serve import load_translator
print(load_translator(sys.argv[1], threads=1).translate(["eins zwei drei.", ""]))
unwanted = {"torch", "fairseq", "fairseq_mem"} & set(sys.modules)
assert not unwanted, unwanted
"""


def test_neither_fairseq_nor_torch_is_imported(translator_files, served):
    done = subprocess.run(
        [sys.executable, "-c", USE, translator_files.exported],
        capture_output=True, text=True, env={"PYTHONPATH": str(SERVE), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{served.translate(['eins zwei drei.', ''])}\n"


@pytest.mark.cli
def test_installs_into_an_empty_environment(translator_files, tmp_path, served):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    copy = shutil.copytree(SERVE, tmp_path / "serve")  # a build leaves files behind
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", copy], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout.lower()
    assert "fairseq-mem-serve" in listed and "ctranslate2" in listed
    assert not {"torch", "fairseq-fixed", "fairseq"} & {
        line.split()[0] for line in listed.splitlines()
    }
    done = subprocess.run(
        [python, "-c", USE, translator_files.exported],
        capture_output=True, text=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{served.translate(['eins zwei drei.', ''])}\n"
