"""What a translator and the model behind it hand to each other."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

END = "</s>"
PADDING = "<pad>"  # fairseq's; inside a sentence as if it were not there


class Hypothesis(NamedTuple):
    """One translation of a sentence."""

    text: str
    score: float  # log-probability of tokens and end mark / (their number ** length penalty)
    tokens: list[str]  # as the model wrote them, without the end mark


class Batch(NamedTuple):
    """Sentences to search translations for together."""

    sources: list[list[str]]  # tokens without the end mark, at least one
    max_tokens: int  # of a translation, without its end mark
    indices: Sequence[int] = ()  # which of those they are that are translated together


class Found(NamedTuple):
    """What the search found: tokens without the end mark; their log-probability, with it."""

    tokens: list[str]
    log_prob: float


class TokenScore(NamedTuple):
    """A token of a given translation, or its end mark."""

    token: str
    log_prob: float  # natural logarithm, given the source and the tokens before


class Engine(Protocol):
    """A model that can search, and score what is given.

    Attributes:
        max_source_tokens: the longest sentence it takes, with the end mark.
        max_target_tokens: the longest translation that it can write, with the end mark.
        parallel: batches that it searches at the same time.
    """

    max_source_tokens: int
    max_target_tokens: int
    parallel: int

    def search(
        self, batches: Sequence[Batch], beam: int, length_penalty: float
    ) -> Iterable[list[list[Found]]]:
        """Yield, batch by batch, what beam search finished for every sentence, in any order.

        A search ends as fairseq's: when ``beam`` hypotheses are finished, or at ``max_tokens``
        tokens, where only the end mark may follow. The penalty does not steer it.
        """
        ...

    def score(
        self, sources: Sequence[list[str]], targets: Sequence[list[str]], indices: Sequence[int]
    ) -> list[list[float]]:
        """Return the log-probabilities of each target's tokens and of the end mark behind them.

        ``indices``: which of the sentences that were given they are, from 0.
        """
        ...
