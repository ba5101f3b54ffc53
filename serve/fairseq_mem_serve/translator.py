"""Raw sentences in, raw translations out: batching, length limits and scores of any engine."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fairseq_mem_text.pipeline import TextPipeline, TooLong

from .protocol import END, PADDING, Batch, Engine, Found, Hypothesis, TokenScore

MOST_PENALTY = 10  # CTranslate2's float32 holds the lengths of texts to this power
LEAST_SHARE = 500  # source tokens: smaller batches are made only where asked for
LEAST_COST = 16  # of a sentence in a batch: a thousand words are no thousand cheap searches


class NotText(ValueError):
    """Something in the list is no text, but a number or nothing, as JSON may hold them.

    Attributes:
        index: which of those given it was, from 0.
    """

    def __init__(self, index: int, found: object) -> None:
        super().__init__(
            f"sentence {index} (counted from 0) is no text, but of type {type(found).__name__}"
        )
        self.index = index


class Translator:
    """Translates raw sentences; may be used by several threads at once.

    Args:
        engine: the model.
        text: what a source goes through, and a translation comes back by.
        target_text: makes what a given translation goes through, when first needed; None if nobody
            knows.
    """

    def __init__(
        self,
        engine: Engine,
        text: TextPipeline,
        target_text: Callable[[], TextPipeline] | None = None,
    ) -> None:
        self._engine, self._text, self._make_target_text = engine, text, target_text
        self._target_text: TextPipeline | None = None

    @property
    def engine(self) -> Engine:
        """What searches for it."""
        return self._engine

    @property
    def source_language(self) -> str:
        """The language that it reads."""
        return self._text.source_language

    @property
    def target_language(self) -> str:
        """The language that it writes."""
        return self._text.target_language

    @property
    def max_source_tokens(self) -> int:
        """The longest sentence that it takes, in subword tokens with the end mark."""
        return self._engine.max_source_tokens

    @property
    def parallel(self) -> int:
        """Batches that it searches at the same time."""
        return self._engine.parallel

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 4,
        length_penalty: float = 1.0,
        max_len_a: float = 1.2,
        max_len_b: float = 10,
        batch_tokens: int = 4000,
    ) -> list[str]:
        """Return the best translation of every sentence; see :meth:`translate_nbest`."""
        found = self.translate_nbest(
            sentences,
            beam=beam,
            length_penalty=length_penalty,
            max_len_a=max_len_a,
            max_len_b=max_len_b,
            batch_tokens=batch_tokens,
        )
        return [hypotheses[0].text for hypotheses in found]

    def translate_nbest(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 4,
        nbest: int = 1,
        length_penalty: float = 1.0,
        max_len_a: float = 1.2,
        max_len_b: float = 10,
        batch_tokens: int = 4000,
    ) -> list[list[Hypothesis]]:
        """Return the best translations of every sentence, best first.

        Args:
            sentences: raw text; a blank one has one translation, the empty text with score 0.
                What is no Unicode, a lone surrogate, is read as U+FFFD.
            beam: hypotheses that the search follows.
            nbest: translations wanted of each sentence, at most ``beam``.
            length_penalty: as fairseq's `--lenpen`, from -10 to 10; above 1 favours longer
                translations.
            max_len_a: with ``max_len_b`` the length limit, as in fairseq but of each sentence
                alone: ``a * tokens of the source, with the end mark, + b``.
            max_len_b: see there.
            batch_tokens: source tokens a batch, padding counted; less where otherwise some of
                ``inter_threads`` would have nothing to do.

        Raises:
            TooLong: a sentence has more than ``max_source_tokens``; nothing is translated.
            NotText: a sentence is no string; nothing is translated.
            ValueError: an option makes no sense.
            TypeError: ``sentences`` is no list.
        """
        check_list(sentences)
        sources = []
        for index, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise NotText(index, sentence)
            try:
                sources.append(self.split(sentence))
            except TooLong as error:
                raise TooLong(error.length, error.limit, index) from None
        return self.translate_tokens(
            sources,
            beam=beam,
            nbest=nbest,
            length_penalty=length_penalty,
            max_len_a=max_len_a,
            max_len_b=max_len_b,
            batch_tokens=batch_tokens,
        )

    def split(self, sentence: str) -> list[str]:
        """Return the subword tokens of a raw sentence, for :meth:`translate_tokens`.

        Raises:
            TooLong: there are too many.
        """
        return self._text.split(well_formed(sentence), self.max_source_tokens)

    def split_target(self, translation: str) -> list[str]:
        """Return the subword tokens of a raw translation, for :meth:`score_tokens`.

        Padding, which no model writes, is left out.

        Raises:
            TooLong: there are too many.
            ValueError: it is not known what the target side's text goes through.
        """
        if self._target_text is None:
            if self._make_target_text is None:
                raise ValueError("this translator does not know how its translations are prepared")
            self._target_text = self._make_target_text()
        tokens = self._target_text.split(well_formed(translation), self._engine.max_target_tokens)
        return [token for token in tokens if token != PADDING]

    def score_tokens(
        self,
        sources: Sequence[list[str]],
        targets: Sequence[list[str]],
        *,
        batch_tokens: int = 4000,
        lengths: Sequence[int] | None = None,
    ) -> list[list[TokenScore]]:
        """Return how probable given translations are, token by token, the end mark the last.

        Args:
            sources: what :meth:`split` made; a blank one is not refused.
            targets: what :meth:`split_target` made, one for each source; a blank one has its end
                mark alone.
            batch_tokens: tokens of the longer side of a batch, padding counted.
            lengths: as in :meth:`translate_tokens`.
        """
        check_list(sources)
        check_list(targets)
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources and {len(targets)} targets; give as many")
        sources = [checked(index, source) for index, source in enumerate(sources)]
        targets = [checked(index, target) for index, target in enumerate(targets)]
        lengths = lengths_of(sources, lengths)
        longer = [max(length, len(target)) for length, target in zip(lengths, targets, strict=True)]
        scored: list[list[TokenScore]] = [[] for _ in sources]
        for group in batched_by_length(list(range(len(sources))), longer, batch_tokens):
            chosen = [targets[i] for i in group]
            log_probs = self._engine.score([sources[i] for i in group], chosen, group)
            for i, target, of_target in zip(group, chosen, log_probs, strict=True):
                tokens = [*target, END]
                scored[i] = [TokenScore(*pair) for pair in zip(tokens, of_target, strict=True)]
        return scored

    def translate_tokens(
        self,
        sources: Sequence[list[str]],
        *,
        beam: int = 4,
        nbest: int = 1,
        length_penalty: float = 1.0,
        max_len_a: float = 1.2,
        max_len_b: float = 10,
        batch_tokens: int = 4000,
        lengths: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Do :meth:`translate_nbest` for sentences that :meth:`split` made into tokens.

        Args:
            lengths: tokens that the engine reads for each sentence, without the end mark, where
                they are more than the sentence's own; a batch counts those.
            progress: called with the number of sentences of every batch that is done, blank
                sentences left out.
        """
        check_list(sources)
        if not 1 <= nbest <= beam:
            raise ValueError(f"nbest {nbest} with beam {beam}: give 1 to the beam's size")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens {batch_tokens}: give a number above 0")
        if not abs(length_penalty) <= MOST_PENALTY:
            raise ValueError(
                f"length_penalty {length_penalty}: give a number from -{MOST_PENALTY} to "
                f"{MOST_PENALTY}"
            )
        sources = [checked(index, source) for index, source in enumerate(sources)]
        lengths = lengths_of(sources, lengths)
        most = self._engine.max_target_tokens - 1
        limits = []
        for source in sources:
            limit = int(min(max_len_a * (len(source) + 1) + max_len_b, most))
            if limit < 1 and source:
                raise ValueError(
                    f"max_len_a {max_len_a} and max_len_b {max_len_b} allow no translation of "
                    f"{len(source)} tokens; raise them"
                )
            limits.append(limit)
        found = self._search(sources, lengths, limits, beam, length_penalty, batch_tokens, progress)
        return [self._ranked(f, length_penalty)[:nbest] for f in found]

    def _search(
        self,
        sources: Sequence[list[str]],
        lengths: Sequence[int],
        limits: list[int],
        beam: int,
        length_penalty: float,
        batch_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[list[Found]]:
        """What the search found, of every sentence as if it were alone."""
        found = [[Found([], 0.0)] for _ in sources]
        todo = [index for index, source in enumerate(sources) if source]
        if self._engine.parallel > 1:  # two batches for each, as one may take longer than another
            cost = sum(cost_of(lengths[i]) for i in todo)
            share = max(LEAST_SHARE, cost // (2 * self._engine.parallel))
            batch_tokens = min(batch_tokens, share)
        # Sentences of about one length, searched with the largest limit among them ...
        groups = list(batched_by_length(todo, lengths, batch_tokens))
        self._fill(found, groups, sources, limits, beam, length_penalty, progress)
        # ... and the few that grew beyond their own limit once more, with that.
        over = [i for i in todo if any(len(f.tokens) > limits[i] for f in found[i])]
        groups = []
        for limit in sorted({limits[i] for i in over}):
            same = [i for i in over if limits[i] == limit]
            groups += batched_by_length(same, lengths, batch_tokens)
        self._fill(found, groups, sources, limits, beam, length_penalty)
        return found

    def _fill(
        self,
        found: list[list[Found]],
        groups: list[list[int]],
        sources: Sequence[list[str]],
        limits: list[int],
        beam: int,
        length_penalty: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Search for every group of sentences and put what comes out into ``found``."""
        batches = [
            Batch([sources[i] for i in group], max(limits[i] for i in group), group)
            for group in groups
        ]
        results = self._engine.search(batches, beam, length_penalty)
        for group, result in zip(groups, results, strict=True):
            for index, of_sentence in zip(group, result, strict=True):
                found[index] = of_sentence
            if progress is not None:
                progress(len(group))

    def _ranked(self, found: list[Found], length_penalty: float) -> list[Hypothesis]:
        """Hypotheses, best first."""
        scored = [
            (log_prob / (len(tokens) + 1) ** length_penalty, tokens) for tokens, log_prob in found
        ]
        scored.sort(key=lambda pair: -pair[0])
        return [Hypothesis(self._text.join(tokens), score, tokens) for score, tokens in scored]


def check_list(given: object) -> None:
    """Refuse what would be taken for a list of its characters or keys, and what is none."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"give a list of sentences, not {type(given).__name__}")


def checked(index: int, source: list[str]) -> list[str]:
    """A sentence's tokens as every engine can take them; none if all are padding.

    Raises:
        NotText: they are no list of strings.
    """
    if not isinstance(source, list | tuple):
        raise NotText(index, source)
    for token in source:
        if not isinstance(token, str):
            raise NotText(index, token)
    # Of nothing but padding no engine but fairseq's could search a translation.
    return [] if set(source) == {PADDING} else [well_formed(token) for token in source]


def well_formed(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which no encoding of Unicode has."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def lengths_of(sources: Sequence[list[str]], given: Sequence[int] | None) -> Sequence[int]:
    """How many tokens are read for each sentence, if nothing else is given its own."""
    if given is None:
        return [len(source) for source in sources]
    if len(given) != len(sources):
        raise ValueError(f"{len(sources)} sources and {len(given)} lengths; give as many")
    return given


def cost_of(length: int) -> int:
    """How many tokens of a batch a sentence of ``length`` counts for."""
    return max(length + 1, LEAST_COST)  # with the end mark


def batched_by_length(
    indices: list[int], lengths: Sequence[int], batch_tokens: int
) -> Iterator[list[int]]:
    """Sort ``indices`` of sentences, the longest first, and cut them into batches."""
    batch: list[int] = []
    widest = 0
    for index in sorted(indices, key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * widest > batch_tokens:
            yield batch
            batch = []
        if not batch:
            widest = cost_of(lengths[index])
        batch.append(index)
    if batch:
        yield batch
