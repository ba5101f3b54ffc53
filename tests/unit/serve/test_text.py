"""The served text's pipeline is the training text's."""

import pytest
from fairseq_mem_serve import (
    TextPipeline,
    TooLong,
)
from fairseq_mem_text.pipeline import BPE_MARK
from helpers.preprocessing import GERMAN, run_corpus

FILES = {"raw.de", "raw.en", "tok", "tok.de", "code", "bpe"}


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
    monkeypatch.setattr("fairseq_mem_text.pipeline.MOST_CACHED_WORDS", 20)
    pipeline = TextPipeline("de", "en", codes=translator_files.data / "code")
    for number in range(100):
        pipeline.split(f"wort{number} und{number}")
    assert len(pipeline._bpe.cache) <= 22


def test_the_cache_of_words_is_not_emptied_while_another_thread_reads_it(
    translator_files, monkeypatch
):
    """subword-nmt looks a word up, then takes it."""
    monkeypatch.setattr("fairseq_mem_text.pipeline.MOST_CACHED_WORDS", 1)
    pipeline = TextPipeline("de", "en", codes=translator_files.data / "code")
    pipeline.split("eins")
    read_by_another = pipeline._bpe.cache
    pipeline.split("zwei drei")
    assert "eins" in read_by_another
    assert "eins" not in pipeline._bpe.cache
