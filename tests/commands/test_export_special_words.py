"""Words that look like marks: an export reads and writes them as fairseq does."""

import argparse

import pytest
from helpers import trained_models
from helpers.trained_models import train

from fairseq_mem import UserError
from fairseq_mem.tools.export import export
from fairseq_mem.tools.translate.command import load_checkpoint

pytest.importorskip("ctranslate2")
serve = pytest.importorskip("fairseq_mem_serve")

# What some tool or other takes for something else than a word.
LOOKS = [
    "<blank>", "<mem-0>", "<decoder-mem-0>", "<mask>", "｟a｠", "｟", "￨", "a￨b", "▁", "@@",
    "<text-end>", "</w>",
]  # fmt: skip
MARKS = ["<s>", "<pad>", "</s>", "<unk>"]
MODELS = {
    "encoder, shared": ["--memory-tokens", "1", "--share-all-embeddings"],
    "both": ["--memory-tokens", "3", "--memory-decoder-tokens", "2"],
    "decoder": ["--memory-decoder-tokens", "2", "--share-all-embeddings"],
    "no memory": ["--encoder-learned-pos", "--decoder-learned-pos"],
    "fairseq's own": ["--arch", "transformer", "--share-all-embeddings"],
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def model(request, tmp_path_factory):
    """A checkpoint that writes every word, and whether its languages have one dictionary."""
    folder = tmp_path_factory.mktemp("words")
    return train(folder, request.param, updates=200), "--share-all-embeddings" in request.param


@pytest.fixture(params=["s", "t"], ids=["source", "target"])
def both_ways(request, model, tmp_path):
    """The model exported and in fairseq, with one side's words renamed; the source's words."""
    checkpoint, joined = model
    folder = checkpoint.parent
    trained_models.write_dictionaries(folder, joined)
    for path in (folder / "dict.de.txt", folder / "dict.en.txt"):
        text = path.read_text(encoding="utf-8")
        for number, name in enumerate(LOOKS):
            text = text.replace(f"{request.param}{number} ", f"{name} ")
        path.write_text(text, encoding="utf-8")
    trained_models.forget_dictionaries(checkpoint)
    export(checkpoint, folder, tmp_path / "exported")
    args = argparse.Namespace(
        model=str(checkpoint), data=str(folder), device="cpu", threads=None, tokenizer=None,
        bpe_codes=None,
    )  # fmt: skip
    return (
        serve.load_translator(tmp_path / "exported", threads=1),
        load_checkpoint(args),
        LOOKS if request.param == "s" else [f"s{n}" for n in range(trained_models.WORDS)],
    )


def assert_same(served, by_fairseq, sources: list[list[str]]) -> list[list[str]]:
    """Both find the same best translations, which are returned."""
    ours, theirs = (t.translate_tokens(sources) for t in (served, by_fairseq))
    for source, (mine, *_), (reference, *_) in zip(sources, ours, theirs, strict=True):
        assert mine.tokens == reference.tokens, source
        assert mine.score == pytest.approx(reference.score, abs=1e-4), source
    return [mine.tokens for mine, *_ in ours]


def test_every_word_is_a_word(both_ways):
    served, by_fairseq, names = both_ways
    sources = [[name, other] for name in names for other in names]
    written = {word for tokens in assert_same(served, by_fairseq, sources) for word in tokens}
    assert len(written) > 0.8 * trained_models.WORDS
    if names is not LOOKS:
        assert "<blank>" in written


def test_marks_in_a_text_are_what_they_are_to_fairseq(both_ways):
    served, by_fairseq, (a, b, *_) = both_ways
    sources = [pattern for mark in MARKS for pattern in (
        [mark], [mark, a], [a, mark], [a, mark, b], [mark, mark], [mark, a, mark, mark, b],
    )]  # fmt: skip
    sources += [["<s>", "</s>"], ["<s>", "</s>", a], ["</s>", "<s>"], ["<pad>", "</s>", a]]
    sources += [["<mem-0>", "<text-end>"], ["<<text-end>>", a, "<decoder-mem-1>"]]
    assert_same(served, by_fairseq, sources)


def test_a_name_of_two_rows_cannot_be_exported(tmp_path):
    """fairseq reads the word as its last row, CTranslate2 as its first."""
    checkpoint = train(tmp_path, ["--memory-tokens", "1"])
    path = tmp_path / "dict.de.txt"
    path.write_text(path.read_text().replace("s3 1", "<pad> 1 #fairseq:overwrite"))
    trained_models.forget_dictionaries(checkpoint)
    with pytest.raises(UserError, match=r"dictionary has '<pad>' twice") as stop:
        export(checkpoint, tmp_path, tmp_path / "out")
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "out").exists()
