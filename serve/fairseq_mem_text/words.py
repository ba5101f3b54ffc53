"""Raw text to words: the one place that knows in which order that is done."""

from collections.abc import Callable

from .linear import LinearNormalizer, LinearTokenizer, compose
from .moses import Normalizer, Tokenizer


def word_splitter(
    language: str, *, normalize: bool, remove_nonprinting: bool, nfc: bool, remember: bool
) -> Callable[[str], str]:
    r"""What happens to each line of raw text before BPE: compose, normalise, tokenise.

    Training text, validation text and what a trained model is given all go through it. A line is
    to have its ``\n``: at a line's end the German rules for quotes do something else than at a
    text's.

    Args:
        language: of the text; for the rules.
        normalize: normalise punctuation; without it the next two are not done either.
        remove_nonprinting: take out control characters too.
        nfc: compose characters (Unicode's NFC) before.
        remember: keep in mind what became of a word. It is many times faster on a corpus, but what
            is kept grows with the words' lengths, which a stranger could choose.

    Returns:
        Gives the words of a line with single spaces between them, without ``\n``.
    """
    tokenizer = Tokenizer(LinearTokenizer(language))
    tokenize: Callable[[str], str] = tokenizer if remember else tokenizer.by_library
    if not normalize:
        return tokenize
    normalizer = Normalizer(LinearNormalizer(language), remove_nonprinting)
    if not nfc:
        return lambda line: tokenize(normalizer(line))
    return lambda line: tokenize(normalizer(compose(line)))
