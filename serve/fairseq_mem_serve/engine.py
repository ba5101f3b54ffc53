"""The search in a folder that `fairseq-mem export` wrote, by CTranslate2."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ctranslate2

from .protocol import END, PADDING, Batch, Found

UNKNOWN = "<unk>"
MOST_SCORED = 1024  # tokens at a time
DIGITS = 30  # of a power of a length; a float32 holds 38, and the log-probability needs some
IMPOSSIBLE = -1e9  # CTranslate2's log-probability of what it does not follow is -1e10
MOST_OF_ALL = 0.5  # a probability; one minus it is exact


class CTranslate2Engine:
    """Searches with a CTranslate2 model whose memory slots are tokens of the two vocabularies.

    Args:
        model: the loaded model; it adds the end mark to the source and the decoder's start token
            itself.
        source_prefix: the encoder's memory, put in front of every source.
        target_prefix: what the decoder is forced to begin with: its memory but for the first slot,
            which is the start token, and then the end mark, with which fairseq's decoder starts;
            empty without memory.
        start_token: of the decoder; its memory's first slot, or the end mark.
        text_end: what an end mark inside a source is called, which CTranslate2 would take for the
            source's own end; None where memory in front prevents that.
        vocabularies: of the source and of the target.
        max_source_tokens: of the text, with the end mark.
        max_target_tokens: of the translation, with the end mark.
        parallel: batches that the model searches at the same time.
    """

    def __init__(
        self,
        model: ctranslate2.Translator,
        *,
        source_prefix: list[str],
        target_prefix: list[str],
        start_token: str = END,
        text_end: str | None = None,
        vocabularies: Sequence[set[str]],
        max_source_tokens: int,
        max_target_tokens: int,
        parallel: int = 1,
    ) -> None:
        added = (
            [*source_prefix, *([text_end] if text_end else [])],
            [*([start_token] if start_token != END else []), *target_prefix],
        )
        for tokens, vocabulary in zip(added, vocabularies, strict=True):
            unknown = [token for token in tokens if token not in vocabulary]
            if unknown:
                raise ValueError(
                    f"the model's vocabulary lacks its memory, {unknown[0][:60]}; export it again"
                )
        self._model = model
        self._source_prefix, self._target_prefix = source_prefix, target_prefix
        # Memory cannot be written in a text, also where both sides have one vocabulary.
        self._renamed = dict.fromkeys(
            {*source_prefix, start_token, *target_prefix, text_end} - {END, None}, UNKNOWN
        )
        self._renamed_target = dict(self._renamed)  # where an end mark is one
        if text_end is not None:
            self._renamed[END] = text_end
        self._padding = {PADDING} & vocabularies[1]  # fairseq never chooses it
        self.max_source_tokens, self.max_target_tokens = max_source_tokens, max_target_tokens
        self.parallel = parallel

    def search(
        self, batches: Sequence[Batch], beam: int, length_penalty: float
    ) -> Iterator[list[list[Found]]]:
        """See :class:`~fairseq_mem_serve.protocol.Engine`."""
        # All are queued at once, for `inter_threads` to work on.
        queued = [self._start(batch, _SearchOptions(beam)) for batch in batches]
        for batch, (results, corrections) in zip(batches, queued, strict=True):
            found = self._read(results, corrections, self._exponent(batch))
            odd = {index for index, of_sentence in enumerate(found) if self._is_odd(of_sentence)}
            self._redo(found, batch, odd, _SearchOptions(beam, forbid=True))
            cut = {
                index for index, of_sentence in enumerate(found) if any(map(is_cut, of_sentence))
            }
            if beam > 1:
                self._redo(found, batch, cut - odd, _SearchOptions(beam, exhaust=True))
                odd |= {index for index in cut if self._is_odd(found[index])}
                self._redo(found, batch, cut & odd, _SearchOptions(beam, forbid=True, exhaust=True))
            inexact = {
                index
                for index, of_sentence in enumerate(found)
                if index in odd or any(math.isnan(f.log_prob) for f in of_sentence)
            }
            self._rescore(found, batch, inexact)
            for index in cut:
                self._complete(
                    found, batch, index, _SearchOptions(beam, forbid=index in odd, exhaust=True)
                )
            yield self._with_end(batch, found, beam)

    def score(
        self, sources: Sequence[list[str]], targets: Sequence[list[str]], indices: Sequence[int]
    ) -> list[list[float]]:
        """See :class:`~fairseq_mem_serve.protocol.Engine`."""
        renamed = [[self._renamed_target.get(t, t) for t in target] for target in targets]
        forced = len(self._target_prefix)
        return [log_probs[forced:] for log_probs in self._score(list(sources), renamed)]

    def _complete(
        self, found: list[list[Found]], batch: Batch, index: int, options: "_SearchOptions"
    ) -> None:
        """Replace a sentence's hypotheses that are cut off by all that fairseq has there.

        In the last step CTranslate2 gives a place in the beam to each hypothesis that ends, fairseq
        gives it to the next best that goes on. Up to the last step without an end both follow the
        same ones; from there the few steps are made here.
        """
        ended = [f for f in found[index] if not is_cut(f)]
        ends = {len(f.tokens) for f in ended}
        if len(ended) >= options.beam or batch.max_tokens not in ends:
            return
        begin = max(length for length in range(batch.max_tokens) if length not in ends)
        beam = [Found([], 0.0)]
        source = batch.sources[index]
        if begin:
            shorter, before = Batch([source], begin), [beam]
            self._redo(before, shorter, {0}, options)
            self._rescore(before, shorter, {0})
            beam = [f for f in before[0] if is_cut(f)]
            if not beam:  # rounding went another way than before
                return
        for _ in range(begin, batch.max_tokens):
            beam = self._step(source, beam, options.beam)
        found[index] = ended + beam

    def _step(self, source: list[str], beam: list[Found], size: int) -> list[Found]:
        """What fairseq's beam goes on with after one step more."""
        wide = 2 * size  # so many candidates fairseq looks at, those that end among them
        sources, targets = [source] * len(beam), [f.tokens for f in beam]
        prefixes = [self._target_prefix + target for target in targets]
        steps = self._model.translate_batch(
            self._prefixed(sources),
            target_prefix=prefixes,
            beam_size=wide,
            num_hypotheses=wide,
            length_penalty=0,
            max_decoding_length=len(prefixes[0]) + 1,
            min_decoding_length=0,
            max_input_length=0,
            return_scores=True,
            return_end_token=True,
        )
        candidates = []
        for f, step, log_probs in zip(beam, steps, self._score(sources, targets), strict=True):
            if f.tokens:  # else it would be empty, which fairseq forbids
                candidates.append(Found([*f.tokens, END], f.log_prob + log_probs[-1]))
            for tokens, score in zip(step.hypotheses, step.scores, strict=True):
                # An end behind a prefix CTranslate2 shows but as the best, else as impossible.
                if tokens[-1] not in {END, *self._padding} and score > IMPOSSIBLE:
                    candidates.append(Found([*f.tokens, tokens[-1]], f.log_prob + score))
        candidates.sort(key=lambda f: -f.log_prob)
        return [f for f in candidates[:wide] if is_cut(f)][:size]

    def _redo(
        self, found: list[list[Found]], batch: Batch, indices: set[int], options: "_SearchOptions"
    ) -> None:
        """Search for some sentences of a batch once more, in another way."""
        if not indices:
            return
        order = sorted(indices)
        again = Batch([batch.sources[index] for index in order], batch.max_tokens)
        results = self._read(*self._start(again, options), self._exponent(batch))
        for index, of_sentence in zip(order, results, strict=True):
            found[index] = of_sentence

    def _rescore(self, found: list[list[Found]], batch: Batch, indices: set[int]) -> None:
        """Let the model say how probable some sentences' hypotheses are, with nothing forbidden."""
        asked = [(index, f) for index in sorted(indices) for f in found[index]]
        if not asked:
            return
        forced = len(self._target_prefix)
        scored = self._score(
            [batch.sources[index] for index, _ in asked],
            [f.tokens if is_cut(f) else f.tokens[:-1] for _, f in asked],
        )
        for index in indices:
            found[index] = []
        for (index, f), log_probs in zip(asked, scored, strict=True):
            # The end mark, which the model puts behind every target, counts if it was found.
            of_tokens = log_probs[forced : forced + len(f.tokens)]
            found[index].append(Found(f.tokens, sum(of_tokens)))

    def _score(self, sources: list[list[str]], targets: list[list[str]]) -> list[list[float]]:
        """The log-probabilities of what is forced, of the targets' tokens and of the end mark."""
        scored = self._model.score_batch(
            self._prefixed(sources),
            [self._target_prefix + target for target in targets],
            max_input_length=0,
            max_batch_size=MOST_SCORED,  # each token has as many scores as there are words
            batch_type="tokens",
        )
        return [result.log_probs for result in scored]

    def _is_odd(self, found: list[Found]) -> bool:
        """Whether fairseq forbids one of these translations: empty, or with padding."""
        return any(f.tokens == [END] or not self._padding.isdisjoint(f.tokens) for f in found)

    def _exponent(self, batch: Batch) -> int:
        """Of the length by which CTranslate2 multiplies log-probabilities, to rank by the product.

        Of hypotheses that end in a search's last step, fairseq forgets the worst beyond ``beam``,
        CTranslate2 the worst of all. If it ranks by length in the first place, it is nearly always
        the same; the more so the larger this is, but a float32 must hold the product.
        """
        longest = len(self._target_prefix) + batch.max_tokens
        return int(DIGITS / math.log10(longest + 1))

    def _start(self, batch: Batch, options: "_SearchOptions") -> tuple[list[Any], list[Any]]:
        """Queue a batch: the searches; and, where needed, the first step's end mark's scores."""
        forced = len(self._target_prefix)
        sources = self._prefixed(batch.sources)
        prefixes = [self._target_prefix] * len(sources)
        # What CTranslate2 forbids loses its share of the probability to the others, what fairseq
        # forbids keeps it. So nothing is forbidden before it comes up; except for the empty
        # translation behind a prefix, on which CTranslate2 would silently spend a part of its
        # beam: there we ask for that share. What is searched again is rescored as a whole.
        searches = self._model.translate_batch(
            sources,
            target_prefix=prefixes if forced else None,
            beam_size=options.beam,
            num_hypotheses=options.beam * options.patience(batch),
            patience=options.patience(batch),
            length_penalty=-self._exponent(batch),
            # CTranslate2 counts the forced tokens, and just stops at the last step, where fairseq
            # has the end mark follow: see _with_end.
            max_decoding_length=forced + batch.max_tokens,
            min_decoding_length=forced + 1 if forced or options.forbid else 0,
            max_input_length=0,
            return_scores=True,
            return_end_token=True,
            suppress_sequences=[[token] for token in self._padding] if options.forbid else None,
            asynchronous=True,
        )
        if not forced:
            return searches, []
        return searches, self._model.score_batch(
            sources, prefixes, max_input_length=0, asynchronous=True
        )

    def _prefixed(self, sources: list[list[str]]) -> list[list[str]]:
        """The sources as the model reads them.

        Padding is left out: fairseq masks it, and counts no position for it, wherever it stands.
        """
        return [
            self._source_prefix + [self._renamed.get(t, t) for t in source if t != PADDING]
            for source in sources
        ]

    def _read(
        self, searches: list[Any], corrections: list[Any], exponent: int
    ) -> list[list[Found]]:
        """Hypotheses of every sentence: with the end mark, if they have it.

        Their log-probability is nan where only :meth:`_rescore` can tell it.
        """
        forced = len(self._target_prefix)
        found = []
        for index, search in enumerate(searches):
            result = search.result()
            correction = 0.0
            if corrections:
                end = math.exp(corrections[index].result().log_probs[-1])
                # Near 1, or rounded to it, the end mark leaves a share that float32 does not know.
                correction = math.log1p(-end) if end < MOST_OF_ALL else math.nan
            # CTranslate2 has multiplied by a length that counts the forced tokens.
            found.append(
                [
                    Found(tokens[forced:], score / len(tokens) ** exponent + correction)
                    for tokens, score in zip(result.hypotheses, result.scores, strict=True)
                ]
            )
        return found

    def _with_end(self, batch: Batch, found: list[list[Found]], beam: int) -> list[list[Found]]:
        """Keep what fairseq would have: the ``beam`` hypotheses that ended first.

        If there are not as many, those follow that the length limit has cut off, each with the
        end mark's probability counted. The end mark is taken off.
        """
        kept = []
        for hypotheses in found:
            ended = [Found(f.tokens[:-1], f.log_prob) for f in hypotheses if not is_cut(f)]
            ended.sort(key=lambda f: (len(f.tokens), -f.log_prob))
            kept.append(ended[:beam])
        cut = [
            (index, f) for index, of_sentence in enumerate(found) for f in of_sentence if is_cut(f)
        ]
        if cut:
            scored = self._score(
                [batch.sources[index] for index, _ in cut], [f.tokens for _, f in cut]
            )
            late: list[list[Found]] = [[] for _ in found]
            for (index, f), log_probs in zip(cut, scored, strict=True):
                late[index].append(Found(f.tokens, f.log_prob + log_probs[-1]))
            for ended, candidates in zip(kept, late, strict=True):
                candidates.sort(key=lambda f: -f.log_prob)
                ended += candidates[: beam - len(ended)]
        return kept


class _SearchOptions(NamedTuple):
    """A way to search.

    Attributes:
        beam: hypotheses that are followed.
        forbid: what fairseq forbids is forbidden from the beginning.
        exhaust: go on to the length limit and return all that ended; else the best ``beam`` are
            returned, among which those that were cut off at the limit can hide others.
    """

    beam: int
    forbid: bool = False
    exhaust: bool = False

    def patience(self, batch: Batch) -> int:
        """So many times the beam may end."""
        return batch.max_tokens + 1 if self.exhaust else 1


def is_cut(hypothesis: Found) -> bool:
    """Whether the search stopped before the end mark."""
    return hypothesis.tokens[-1:] != [END]
