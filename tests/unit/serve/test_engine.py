"""CTranslate2 searches as fairseq does, and nothing that is written becomes memory."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq_mem_serve import (
    Batch,
    Found,
    TooLong,
    load_translator,
)
from fairseq_mem_serve.engine import CTranslate2Engine
from helpers import number_translator

SENTENCES = [german for german, _ in number_translator.pairs(40, seed=7)]


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


def test_what_ended_first_is_kept():
    """As in fairseq, where a better hypothesis that ends later comes too late."""
    engine = CTranslate2Engine.__new__(CTranslate2Engine)  # nothing is cut, so no model is asked
    end = "</s>"
    late, first, second = Found(["a", "b", end], -1.0), Found(["c", end], -2), Found(["d", end], -3)
    (kept,) = engine._with_end(Batch([["x"]], 5), [[late, second, first]], 2)
    assert kept == [Found(["c"], -2), Found(["d"], -3)]


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
