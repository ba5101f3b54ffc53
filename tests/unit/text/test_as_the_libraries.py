"""Faster than the libraries, and the same bytes: Moses' rules and byte-pair encoding."""

import io
import random
import subprocess

import pytest
from fairseq_mem_text import linear, moses, segmenting
from fairseq_mem_text.lines import CHUNK_LINES
from helpers.messy_text import learned, messy_lines
from helpers.preprocessing import ENGLISH, GERMAN, STAGES, library, sentences


@pytest.mark.parametrize("language", ["de", "en", "fr"])
@pytest.mark.parametrize("printable", [False, True])
def test_moses_of_any_line(language, printable):
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer = MosesPunctNormalizer(language, post_remove_control_chars=printable)
    linear_normalizer = linear.LinearNormalizer(language, post_remove_control_chars=printable)
    quick_normalize = moses.Normalizer(linear_normalizer, printable)
    library_tokenizer = linear.LinearTokenizer(language)
    # Both, so that a word that is remembered comes in other company.
    tokenizer, quick_tokenize = MosesTokenizer(language), moses.Tokenizer(library_tokenizer)
    lines = sentences(GERMAN + ENGLISH, 300).splitlines() + messy_lines(1, 3000)
    for number, line in enumerate(lines):
        for ended in (line, line + "\n"):
            normalized = normalizer.normalize(ended)
            assert quick_normalize(ended) == linear_normalizer.normalize(ended) == normalized
        text = quick_normalize(line) if number % 2 else line
        expected = library_tokenizer.tokenize(text, aggressive_dash_splits=True, return_str=True)
        assert quick_tokenize(text) == expected, repr(text)
        if number % 30 == 0:  # slow where there are abbreviations
            assert expected == tokenizer.tokenize(
                text, aggressive_dash_splits=True, return_str=True
            )


def test_few_words_are_remembered(monkeypatch):
    monkeypatch.setattr(moses, "REMEMBERED_WORDS", 5)
    tokenize, expected = (moses.Tokenizer(linear.LinearTokenizer("en")) for _ in range(2))
    for line in ENGLISH:
        assert tokenize(line) == expected.by_library(line)
        assert len(tokenize) <= 5

    monkeypatch.setattr(segmenting, "REMEMBERED_WORDS", 5)
    from subword_nmt.apply_bpe import BPE

    codes = "#version: 0.2\nt h\nth e</w>\nn d</w>\n"
    segmented, plain = segmenting.Segmented(BPE(io.StringIO(codes))), BPE(io.StringIO(codes))
    for line in [*ENGLISH, " a  the  ", "", "the\r"]:
        for ended in (line, line + "\n"):
            assert segmented.segment_line(ended) == plain.process_line(ended)
            assert len(segmented) <= 5 and not segmented.bpe.cache


def learned_by_library(words: dict[str, int], merges: int) -> list[str]:
    from subword_nmt.learn_bpe import learn_bpe

    codes = io.StringIO()
    learn_bpe([f"{word} {count}" for word, count in words.items()], codes, merges, is_dict=True)
    return codes.getvalue().splitlines()[1:]


@pytest.mark.parametrize("alphabet", ["ab", "aaab", "abcdefgh"])
@pytest.mark.parametrize("seed", range(6))
def test_bpe_of_any_words(alphabet, seed):
    """Few letters: symbols beside themselves, pairs that overlap, many of the same count."""
    draw = random.Random(seed)
    words = {
        "".join(draw.choices(alphabet, k=draw.randint(1, 14))): draw.randint(1, 10 ** (seed % 4))
        for _ in range(200)
    }
    words["ab"] = 3
    assert learned(words, 300) == learned_by_library(words, 300)


def test_bpe_of_text():
    words, _ = {}, 0
    for line in sentences(GERMAN + ENGLISH, 1500).split():
        words[line] = words.get(line, 0) + 1
    assert learned(words, 2000) == learned_by_library(words, 2000)


def test_bpe_of_words_with_the_mark_for_their_end():
    words = {"a</w>b": 5, "a</w>": 9, "xa": 3, "</w>": 2}
    assert learned(words, 20) == learned_by_library(words, 20)


def test_bpe_without_pairs():
    assert learned({"a": 3}, 10) == []


def test_removed_characters_are_sacremoses_own(tmp_path):
    lines = sentences(GERMAN, 50).replace("Satz", "Sa\u00adtz\u200b\x07")
    for language in ("de", "en"):
        (tmp_path / f"raw.{language}").write_text(lines, encoding="utf-8")
    words = ["tokenize", "--source-lang", "de", "--target-lang", "en", "--remove-nonprinting"]
    paths = [tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok"]
    done = subprocess.run([*STAGES, *words, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for language in ("de", "en"):
        expected = library(
            "sacremoses", "-l", language, "-j", 1, "-q", "normalize", "-c", "tokenize", "-a",
            text=lines.encode(),
        )  # fmt: skip
        assert (tmp_path / f"tok.{language}").read_bytes() == expected
        assert b"Satz" in expected


def test_repeated_pairs_are_dropped(tmp_path):
    pairs = [("ein Haus", "a house"), ("ein Haus", "a home"), ("ein \u201eHaus\u201c", '"a house"')]
    many = pairs * CHUNK_LINES + [("ein  Haus", "a house")]  # over several chunks
    for column, language in enumerate(("de", "en")):
        lines = "".join(pair[column] + "\n" for pair in many)
        (tmp_path / f"raw.{language}").write_text(lines, encoding="utf-8")
    words = ["tokenize", "--source-lang", "de", "--target-lang", "en", "--clean", "--dedup"]
    paths = [tmp_path / "raw.de", tmp_path / "raw.en", tmp_path / "tok"]
    done = subprocess.run(
        [*STAGES, *words, "--workers", "2", *map(str, paths)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tok.en").read_text() == "a house\na home\n&quot; a house &quot;\n"
    assert (tmp_path / "tok.counts").read_text() == (
        "3,001 pairs read, 3 kept; dropped: 2,998 seen before\n"
    )
