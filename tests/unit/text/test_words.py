"""The order of what happens to a line of raw text."""

from fairseq_mem_text.words import word_splitter


def test_characters_are_composed_before_punctuation_is_normalised():
    """U+1FEF is composed to a grave accent, which the normalisation makes an apostrophe."""
    options = dict(normalize=True, remove_nonprinting=False, remember=False)
    assert word_splitter("de", nfc=True, **options)("a\u1fefb\n") == "a &apos; b"
    assert word_splitter("de", nfc=False, **options)("a\u1fefb\n") == "a \u1fef b"
