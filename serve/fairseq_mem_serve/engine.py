"""Folders that `fairseq-mem export` wrote, and the search in them, by CTranslate2."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from .text import TextPipeline
from .translator import Batch, Found, Translator

FORMAT = 1
DESCRIPTION = "fairseq_mem.json"
END = "</s>"
UNKNOWN = "<unk>"


def load_translator(
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    inter_threads: int = 1,
    compute_type: str = "default",
) -> Translator:
    """Load an exported model.

    Args:
        folder: what `fairseq-mem export` wrote.
        device: "cpu", "cuda" or "auto".
        threads: of the CPU, for each batch; None leaves the choice to CTranslate2.
        inter_threads: batches that are searched at the same time, on a CPU.
        compute_type: CTranslate2's; "default" is the quantization that was exported.

    Raises:
        FileNotFoundError: ``folder`` holds no exported model.
        ValueError: the model is of another format, or damaged, or cannot run as asked for.
    """
    folder = Path(folder)
    description = read_description(folder)
    try:
        model = ctranslate2.Translator(
            str(folder),
            device=device,
            compute_type=compute_type,
            inter_threads=inter_threads,
            intra_threads=threads or 0,
        )
    except RuntimeError as error:
        raise ValueError(f"CTranslate2 cannot load {folder}: {error}") from error
    engine = CTranslate2Engine(
        model,
        source_prefix=description["source_prefix"],
        target_prefix=description["target_prefix"],
        vocabularies=[read_vocabulary(folder, side) for side in ("source", "target")],
        max_source_tokens=description["max_source_tokens"],
        max_target_tokens=description["max_target_tokens"],
    )
    text = TextPipeline(
        description["source_language"],
        description["target_language"],
        codes=folder / "code" if description["bpe"] else None,
        tokenizer=description["tokenizer"],
        normalize=description.get("normalize", True),
    )
    return Translator(engine, text)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what the exporter says about the model in ``folder``.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: it is of a format that we don't know, or damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no exported model ({DESCRIPTION} is missing); "
            "make one with: fairseq-mem export"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged; export the model again") from None
    if version != FORMAT:
        raise ValueError(
            f"{folder} has format {version}, this fairseq-mem-serve reads format {FORMAT}; "
            "install the release that fits, or export the model again"
        )
    needed = (
        "source_language", "target_language", "source_prefix", "target_prefix", "tokenizer", "bpe",
        "max_source_tokens", "max_target_tokens",
    )  # fmt: skip
    missing = [key for key in needed if key not in description]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; export the model again")
    return description


def read_vocabulary(folder: Path, side: str) -> set[str]:
    """Return the tokens of one side of the model in ``folder``."""
    for name in (f"{side}_vocabulary.json", "shared_vocabulary.json"):
        if (folder / name).is_file():
            return set(json.loads((folder / name).read_text(encoding="utf-8")))
    raise ValueError(f"{folder} lacks its vocabulary; export the model again")


class CTranslate2Engine:
    """Searches with a CTranslate2 model whose memory slots are tokens of the two vocabularies.

    Args:
        model: the loaded model; it adds the end mark to the source and the decoder's start token
            itself.
        source_prefix: the encoder's memory, put in front of every source.
        target_prefix: what the decoder is forced to begin with: its memory but for the first slot,
            which is the start token, and then the end mark, with which fairseq's decoder starts;
            empty without memory.
        vocabularies: of the source and of the target.
        max_source_tokens: of the text, with the end mark.
        max_target_tokens: of the translation, with the end mark.
    """

    def __init__(
        self,
        model: ctranslate2.Translator,
        *,
        source_prefix: list[str],
        target_prefix: list[str],
        vocabularies: Sequence[set[str]],
        max_source_tokens: int,
        max_target_tokens: int,
    ) -> None:
        for prefix, vocabulary in zip((source_prefix, target_prefix), vocabularies, strict=True):
            unknown = [token for token in prefix if token not in vocabulary]
            if unknown:
                raise ValueError(
                    f"the model's vocabulary lacks its memory, {unknown[0]}; export it again"
                )
        self._model = model
        self._source_prefix, self._target_prefix = source_prefix, target_prefix
        # Memory cannot be written in a text.
        self._memory = {*source_prefix, *target_prefix} - {END}
        # fairseq never chooses padding, which CTranslate2's own converter renames
        self._padding = {"<pad>", "<blank>"} & vocabularies[1]
        self.max_source_tokens, self.max_target_tokens = max_source_tokens, max_target_tokens

    def search(
        self, batches: Sequence[Batch], beam: int, length_penalty: float
    ) -> Iterator[list[list[Found]]]:
        """See :class:`~fairseq_mem_serve.translator.Engine`."""
        # All are queued at once, for `inter_threads` to work on.
        queued = [self._start(batch, beam, length_penalty) for batch in batches]
        for batch, results in zip(batches, queued, strict=True):
            found = [self._finished(result.result(), length_penalty) for result in results]
            odd = [index for index, of_sentence in enumerate(found) if self._is_odd(of_sentence)]
            if odd:
                again = Batch([batch.sources[index] for index in odd], batch.max_tokens)
                results = self._start(again, beam, length_penalty, forbid=True)
                for index, result in zip(odd, results, strict=True):
                    found[index] = self._finished(result.result(), length_penalty)
            yield self._with_end(batch, found, beam)

    def _is_odd(self, found: list[Found]) -> bool:
        """Whether there is a translation among them that fairseq forbids: empty, or with padding."""
        return any(f.tokens == [END] or not self._padding.isdisjoint(f.tokens) for f in found)

    def _start(
        self, batch: Batch, beam: int, length_penalty: float, forbid: bool = False
    ) -> list[Any]:
        forced = len(self._target_prefix)
        # What CTranslate2 forbids loses its share of the probability to the others, what fairseq
        # forbids keeps it. So nothing is forbidden before it comes up, but for the empty
        # translation behind a prefix, where CTranslate2 would silently spend a part of its beam
        # on it.
        return self._model.translate_batch(
            self._prefixed(batch.sources),
            target_prefix=[self._target_prefix] * len(batch.sources) if forced else None,
            beam_size=beam,
            num_hypotheses=beam,
            # At exactly 0 the search would stop earlier than fairseq's.
            length_penalty=length_penalty or 1e-9,
            # CTranslate2 counts the forced tokens, and cuts the last step's hypotheses off where
            # fairseq has the end mark follow: see _with_end.
            max_decoding_length=forced + batch.max_tokens,
            min_decoding_length=forced + 1 if forced or forbid else 0,
            max_input_length=0,
            return_scores=True,
            return_end_token=True,
            suppress_sequences=[[token] for token in self._padding] if forbid else None,
            asynchronous=True,
        )

    def _prefixed(self, sources: list[list[str]]) -> list[list[str]]:
        return [
            self._source_prefix + [UNKNOWN if t in self._memory else t for t in source]
            for source in sources
        ]

    def _finished(self, result: Any, length_penalty: float) -> list[Found]:
        """Hypotheses of one sentence: with the end mark, if they have it."""
        forced = len(self._target_prefix)
        # CTranslate2 has divided by a length that counts the forced tokens.
        return [
            Found(tokens[forced:], score * len(tokens) ** (length_penalty or 1e-9))
            for tokens, score in zip(result.hypotheses, result.scores, strict=True)
        ]

    def _with_end(self, batch: Batch, found: list[list[Found]], beam: int) -> list[list[Found]]:
        """Take the end mark off; where the length limit cut it off, count its probability first."""
        cut = [
            (index, hypothesis)
            for index, hypotheses in enumerate(found)
            for hypothesis in hypotheses
            if hypothesis.tokens[-1:] != [END]
        ]
        ended: list[list[Found]] = [
            [Found(f.tokens[:-1], f.log_prob) for f in hypotheses if f.tokens[-1:] == [END]]
            for hypotheses in found
        ]
        if cut:
            scored = self._model.score_batch(
                self._prefixed([batch.sources[index] for index, _ in cut]),
                [self._target_prefix + f.tokens for _, f in cut],
                max_input_length=0,
            )
            late: list[list[Found]] = [[] for _ in found]
            for (index, hypothesis), result in zip(cut, scored, strict=True):
                log_prob = hypothesis.log_prob + result.log_probs[-1]
                late[index].append(Found(hypothesis.tokens, log_prob))
            for hypotheses, candidates in zip(ended, late, strict=True):
                candidates.sort(key=lambda f: -f.log_prob)
                hypotheses += candidates[: max(beam - len(hypotheses), 0)]
        return ended
