"""Counts the symbols that a model recalls, in what fairseq-eval-lm printed.

A symbol behind "recall" counts as recalled if the model gave it more than half of its probability:
then it is its first choice. The perplexity tells guessing from being wrong: it is 8, the number of
symbols to choose from, for a model that knows only what kind of symbol comes.

usage: fairseq-eval-lm ... --output-word-probs | score.py NAME
"""

import math
import re
import sys

SYMBOLS = 2  # behind every "recall"


def main() -> None:
    """Read standard input, print one line."""
    words = []  # of the whole text in its order, with the logarithm of their probability
    for line in sys.stdin:
        if "\t" in line and (found := re.findall(r"(\S+) \[(-?[\d.]+)\]", line)):
            words += [(word, float(score)) for word, score in found]
    asked = [place for place, (word, _) in enumerate(words) if word == "recall"]
    symbols = [words[place + n] for place in asked for n in range(1, SYMBOLS + 1)]
    if not symbols:
        sys.exit("score.py: no word probabilities on standard input; give --output-word-probs")
    right = sum(score > math.log(0.5) for _, score in symbols)
    perplexity = math.exp(-sum(score for _, score in symbols) / len(symbols))
    print(
        f"{sys.argv[1]}: {right} of {len(symbols)} symbols recalled "
        f"({100 * right / len(symbols):.1f} %), perplexity {perplexity:.2f}"
    )


if __name__ == "__main__":
    main()
