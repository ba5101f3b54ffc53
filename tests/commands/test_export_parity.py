"""Export, serve, compare: an exported model translates as its checkpoint does in fairseq."""

import argparse

import pytest
from helpers import trained_models

from fairseq_mem.tools.export import export
from fairseq_mem.tools.translate.command import load_checkpoint

pytest.importorskip("ctranslate2")
serve = pytest.importorskip("fairseq_mem_serve")

ENCODER, DECODER = ["--memory-tokens", "3"], ["--memory-decoder-tokens", "2"]
SHARED = ["--share-all-embeddings"]
PRE_NORM = ["--encoder-normalize-before", "--decoder-normalize-before"]
LEARNED = ["--encoder-learned-pos", "--decoder-learned-pos"]
# Post-norm, sinusoidal positions and separate vocabularies where nothing else is said.
MODELS = {
    "encoder, shared": [*ENCODER, *SHARED],
    "encoder, separate, pre-norm, learned": [*ENCODER, *PRE_NORM, *LEARNED],
    "decoder, shared, pre-norm": [*DECODER, *SHARED, *PRE_NORM],
    "both, separate, learned": [*ENCODER, *DECODER, *LEARNED],
    "both, shared, pre-norm, learned": [*ENCODER, *DECODER, *SHARED, *PRE_NORM, *LEARNED],
    "fairseq's own": ["--arch", "transformer", *SHARED],
}
SEARCHES = {
    "usual": {},
    "short of room": {"beam": 3, "length_penalty": 0.6, "max_len_a": 0.5, "max_len_b": 2},
}


def texts(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Some sentences have the empty translation, which fairseq's search forbids."""
    pairs = trained_models.texts(count, seed)
    return [(source, [] if source[0] == "s0" else target) for source, target in pairs]


def load_both(folder, flags, updates):
    """A model exported, and the same in fairseq."""
    checkpoint = trained_models.train(folder, flags, updates=updates, texts=texts)
    export(checkpoint, folder, folder / "exported")
    args = argparse.Namespace(
        model=str(checkpoint), data=str(folder), device="cpu", threads=None, tokenizer=None,
        bpe_codes=None,
    )  # fmt: skip
    return serve.load_translator(folder / "exported", threads=1), load_checkpoint(args)


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def both_ways(request, tmp_path_factory):
    """A model that translates most words right, exported and in fairseq."""
    return load_both(tmp_path_factory.mktemp("parity"), request.param, updates=None)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_the_export_translates_as_fairseq_does(both_ways, search):
    served, by_fairseq = both_ways
    sentences = [" ".join(source) for source, _ in texts(200, seed=99)]
    assert sum(sentence.startswith("s0 ") for sentence in sentences) > 5
    ours, theirs = (t.translate_nbest(sentences, **search) for t in (served, by_fairseq))
    same = [(a, b) for (a, *_), (b, *_) in zip(ours, theirs, strict=True) if a.tokens == b.tokens]
    assert len(same) >= 0.99 * len(sentences)
    assert len({tuple(found.tokens) for found, _ in same}) > 50  # it does read the sources
    assert [a.score for a, _ in same] == pytest.approx([b.score for _, b in same], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "updates"),
    [("fairseq's own", 0), ("fairseq's own", 5), ("both, separate, learned", 5)],
)
def test_all_of_an_nbest_list_is_fairseqs(tmp_path, name, updates):
    """Of models that know little, so that searches end anywhere and many at the length limit."""
    served, by_fairseq = load_both(tmp_path, MODELS[name], updates)
    sources = [source for source, _ in texts(12, seed=99)]
    lists = wrong = 0
    for beam in (2, 3, 5):
        for limit in (1, 2, 3, 5, 8, 13, 20):
            search = {"beam": beam, "nbest": beam, "max_len_a": 0, "max_len_b": limit}
            ours, theirs = (t.translate_tokens(sources, **search) for t in (served, by_fairseq))
            for mine, reference in zip(ours, theirs, strict=True):
                # not their words: two may have the same score, but for rounding
                close = pytest.approx([h.score for h in reference], abs=1e-3)
                assert mine[0].score == pytest.approx(reference[0].score, abs=1e-4), (beam, limit)
                lists += 1
                wrong += [h.score for h in mine] != close
    assert wrong <= 0.01 * lists
