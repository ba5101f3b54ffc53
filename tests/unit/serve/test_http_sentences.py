"""The server's sentences: found by rules for the language, put together as they stood."""

import time

import pytest
from fairseq_mem_serve.http.sentences import WINDOW, divide, put_together


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("de", "Herr Dr. Müller kam am 3. Oktober. Er ging.", 2),
        ("en", "Mr. Smith paid $3.50 for it. Why? Nobody knows!", 3),
        ("de_DE", "Er sagte: „Ich komme.“ Dann ging er.", 2),
        ("zh", "你好。你是谁？", 2),
        ("nowhere", "One. Two.", 2),
        ("../../etc/passwd", "One. Two.", 2),
        ("de", "", 0),
        ("de", " \n\t\r\n ", 0),
        ("de", "ohne Ende", 1),
        ("de", "a\u2028b\u2029c\rd\r\ne\nf", 6),
    ],
)
def test_sentences_are_found(language, text, sentences):
    divided = divide(text, language)
    assert len(divided.sentences) == sentences
    assert all(s == s.strip() and s for s in divided.sentences)


TEXTS = [
    "  Eins zwei. Drei vier!\r\n\r\n\tFünf?  Sechs.\n",
    "\n\n", "", " ", "a", "\u00a0Eins.\u3000Zwei. \u2028 Drei.", "Eins.Zwei.", "\x1c a \x1f",
    "„Eins.“ Zwei. " * 1000, "x" * 3 * WINDOW, "eins " * 3 * WINDOW, '" ' * WINDOW,
]  # fmt: skip


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_nothing_is_lost(text, split):
    sentences, gaps = divide(text, "de", split)
    assert len(gaps) == len(sentences) + 1
    together = gaps[0] + "".join(s + g for s, g in zip(sentences, gaps[1:]))
    assert together == text
    assert not any(gap.strip() for gap in gaps)


def test_without_splitting_every_line_is_a_sentence():
    assert divide("Eins. Zwei.\nDrei. Vier.", "de", split=False) == (
        ["Eins. Zwei.", "Drei. Vier."],
        ["", "\n", ""],
    )


def test_spaces_are_the_target_languages():
    sentences, gaps = divide("你好。你是谁？\n好。", "zh")
    assert put_together(["One.", "Two?", "Three."], gaps, "en") == "One. Two?\nThree."
    assert put_together(sentences, gaps, "ja") == "你好。你是谁？\n好。"
    _, gaps = divide("One. Two.  Three.", "en")
    assert put_together(["一。", "二。", "三。"], gaps, "zh_CN") == "一。二。  三。"
    assert put_together([], divide(" \n", "en").gaps, "zh") == " \n"


def test_a_text_of_nothing_but_quotes_takes_no_quadratic_time():
    """Of the rules alone it takes minutes."""
    begun = time.process_time()
    divide("a. “" * 250_000, "de")
    assert time.process_time() - begun < 60
