"""Text in time that grows with its length: the libraries' own results, whatever the text is."""

import io
import random
import re
import sys
import unicodedata
from collections import Counter
from types import SimpleNamespace

import pytest
from fairseq_mem_serve import TextPipeline, TooLong
from fairseq_mem_text import linear, segmenting
from fairseq_mem_text.pipeline import WORDS
from helpers.messy_text import PIECES, learned, messy_lines

# ---------------------------------------------------------------- Moses

# How each of Moses' rules that repeat something passes over a long row of it: in one go. What
# repeats must not be followed by anything that a row without it is searched for again and again.
ONE_GO = {
    " +", r"\s+", r"\.{2,}", " {2,}",  # nothing follows
    r'"([,.]+)',  # begins with something else
    r'(\.+)(?:"(\s*[^<]))?', r"(?:DOT)+(MULTI)?",  # what follows may be missing
    r"\.' ?$",  # one at most
}  # fmt: skip


def without_classes(pattern: str) -> str:
    return re.sub(r"(?<!\\)\[(?:\\.|[^\]])*\]|\\[^sd]", "_", pattern)


@pytest.mark.parametrize("language", ["de", "en", "es", "fr", "cs", "it", "fi", "zh", "ko"])
def test_no_rule_of_moses_is_quadratic(language):
    """Found by fuzzing: all that was slow was a repetition with something behind it."""
    from sacremoses import MosesDetokenizer

    tokenizer = linear.LinearTokenizer(language)
    rules = [
        *linear.LinearNormalizer(language).substitutions,
        tokenizer.DEDUPLICATE_SPACE, tokenizer.ASCII_JUNK, tokenizer.PAD_NOT_ISALNUM,
        tokenizer.AGGRESSIVE_HYPHEN_SPLIT,
        (getattr(tokenizer, "MULTIDOT_RUN", ""), ""),  # sacremoses 0.1.0 has none
        (tokenizer.MULTIDOT_MARKER, ""), tokenizer.COMMA_SEPARATE_1, tokenizer.COMMA_SEPARATE_2,
        tokenizer.COMMA_SEPARATE_3, *tokenizer.ENGLISH_SPECIFIC_APOSTROPHE,
        *tokenizer.FR_IT_SPECIFIC_APOSTROPHE, tokenizer.NON_SPECIFIC_APOSTROPHE,
        tokenizer.TRAILING_DOT_APOSTROPHE, *tokenizer.MOSES_ESCAPE_XML_REGEXES,
        *MosesDetokenizer.MOSES_UNESCAPE_XML_REGEXES, MosesDetokenizer.ONE_SPACE,
        MosesDetokenizer.AGGRESSIVE_HYPHEN_SPLIT,
    ]  # fmt: skip
    for pattern, _ in rules:
        text = getattr(pattern, "pattern", pattern)
        outside_classes = without_classes(text)  # which are long
        if re.search(r"[+*{]|(?<!\()\?", outside_classes):
            assert outside_classes[:80] in map(without_classes, ONE_GO)


def rows(unit: str, length: int) -> list[str]:
    """A long row of something, by itself and in company."""
    row = unit * (length // len(unit))
    return [row, f'{row}"a', f'a {row}"<', f'{row}" {row}" x', f"{row}MULTI", f"{row}. {row}.\n"]


@pytest.mark.parametrize("language", ["de", "en", "fr"])
def test_long_rows_become_what_the_libraries_make_of_them(language):
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer, quick_normalizer = MosesPunctNormalizer(language), linear.LinearNormalizer(language)
    tokenizer, quick_tokenizer = MosesTokenizer(language), linear.LinearTokenizer(language)
    for unit in {*PIECES, '."', '".', '." ', "DOTDOTMULTI", "a.b.", ". "}:
        for row in rows(unit, 60):
            text = normalizer.normalize(row)
            assert quick_normalizer.normalize(row) == text
            for made in (row, text):
                assert quick_tokenizer.tokenize(made, aggressive_dash_splits=True) == (
                    tokenizer.tokenize(made, aggressive_dash_splits=True)
                )


# ---------------------------------------------------------------- BPE


class CountedCodes(dict):
    """Merges that count how often one is looked up."""

    looked_up = 0

    def get(self, pair, default=None):
        self.looked_up += 1
        return super().get(pair, default)

    def __contains__(self, pair):
        self.looked_up += 1
        return super().__contains__(pair)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
@pytest.mark.parametrize("alphabet", ["ab", "aab", "abcdefgh"])
def test_long_words_are_segmented_as_by_the_library(version, alphabet):
    """With merges in any order, and symbols that come about in several ways."""
    from subword_nmt.apply_bpe import BPE

    draw = random.Random(3)
    for _ in range(60):
        symbols, merges = list(alphabet), {}
        for _ in range(25):
            pair = draw.choice(symbols), draw.choice(symbols) + draw.choice(["", "", "</w>"])
            merges[pair] = None
            if not pair[1].endswith("</w>"):
                symbols.append("".join(pair))
        listed = [f"{left} {right}\n" for left, right in merges]
        draw.shuffle(listed)
        bpe = BPE(io.StringIO(f"#version: {version}\n" + "".join(listed)))
        for length in (1, 2, linear.LONG_WORD, linear.LONG_WORD + 1, 200):
            word = "".join(draw.choices(alphabet, k=length))
            assert linear.segment_word(bpe, word) == bpe.segment_tokens([word])
            assert segmenting.Segmented(bpe)[word] == bpe.process_line(word)


def test_the_work_of_bpe_grows_with_the_length_of_a_word():
    from subword_nmt.apply_bpe import BPE

    draw = random.Random(5)
    words = Counter("".join(draw.choices("abcdefghij", k=8)) for _ in range(3000))
    codes = "#version: 0.2\n" + "".join(f"{merge}\n" for merge in learned(words, 1000))

    def work(length: int) -> int:
        bpe = BPE(io.StringIO(codes))
        bpe.bpe_codes = CountedCodes(bpe.bpe_codes)
        segmented = segmenting.Segmented(bpe)["".join(draw.choices("abcdefghij", k=length))]
        assert length < len(segmented) < 4 * length
        return bpe.bpe_codes.looked_up

    assert 1000 < work(1000) < work(8000) < 10 * work(1000)


# ---------------------------------------------------------------- Unicode


def test_composed_in_linear_time(monkeypatch):
    """Python sorts the marks of a letter in quadratic time: it never gets many at once."""
    assert linear.compose("fu\u0308r A\u030a \u1100\u1161 plain") == "für Å \uac00 plain"
    marks = "".join(chr(code) for code in range(sys.maxunicode) if unicodedata.combining(chr(code)))
    assert len(marks) > 800

    def bounded(form: str, text: str) -> str:
        longest = max(len(row) for row in re.findall(r"[^\w\s\x00-\x7f]*", text))
        assert form == "NFC" and longest <= 30
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(linear, "unicodedata", SimpleNamespace(normalize=bounded))
    for text in (marks, "u\u0308" + marks * 3 + "u\u0308", "a\u0300\u0316" * 1000):
        composed = linear.compose(text)
        assert linear.compose(composed) == composed
    assert linear.compose("u\u0308" + "\u0300\u0316" * 1000 + "u\u0308") == (
        "u\u0308" + "\u0300\u0316" * 1000 + "ü"
    )
    few = "a" + "\u0300\u0316" * 15 + "\u1100\u1161"
    assert linear.compose(few) == unicodedata.normalize("NFC", few)


# ---------------------------------------------------------------- before the work


@pytest.mark.parametrize("language", ["de", "en", "fr"])
def test_words_are_at_least_so_many_tokens(language):
    """However Moses joins words: what is refused by their number would have been too long."""
    pipeline = TextPipeline(
        language, language, codes=None, normalize=True, remove_nonprinting=True, nfc=True
    )
    joined = 0
    for line in [*messy_lines(2, 3000), "5 % 6 %", "( a ) .b", "1\u00a02\u00a03 4", "a :b ;c ."]:
        words = sum(1 for _ in WORDS.finditer(line))
        joined += words < len(line.split())
        assert words <= len(pipeline.split(line)), repr(line)
    assert joined > 100


@pytest.mark.parametrize("word", ["eins", "a.b.", "\u4e00", "u\u0308"])
def test_too_many_words_are_refused_before_the_text_is_touched(word):
    pipeline = TextPipeline("de", "en", codes=None, nfc=True)
    assert len(pipeline.split(" ".join([word] * 1023), 1024)) == 1023
    pipeline._split_words = pytest.fail
    with pytest.raises(TooLong, match="split it"):
        pipeline.split(" ".join([word] * 1024), 1024)
