"""Any model of ours (and fairseq's of the same kinds), reading raw lines and being looked at."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq_mem_text.pipeline import TextPipeline
from fairseq_mem_text.settings import settings_of
from torch import Tensor

from ...attention.recording import recording
from ...checkpoints import kind, read_checkpoint
from ...errors import UserError, first_line
from ...literals import shown
from ...wordpiece import WordPiece, find_tokenizer
from ..documents import context_of, hands_on
from ..loading import Loaded, first_folder, load_translation_model, noted_data
from .views import LAYER, View, groups_of, segment_views, states_by_layer, static_keys, views

TRANSLATION, LANGUAGE_MODEL, TRANSFORMER_XL, SENTENCE_ENCODER = (
    "translation", "language model", "Transformer-XL", "sentence encoder",
)  # fmt: skip
MOST_TOKENS = 1024  # of a line; a page with more could not be read


@dataclass
class Reading:
    """What a model did with a batch of sentences.

    Attributes:
        views: its attention, layer by layer.
        states: each layer's output, B x Q x C, by side and layer and in the order of segments; Q
            are the rows of the self-attention's view.
        source: the encoder's words of every sentence, or None.
        target: the decoder's input words of every sentence, or None.
        written: the words that the decoder predicts, or None.
        written_groups: what they are, B x T, or None.
    """

    views: list[View]
    states: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    source: list[list[str]] | None = None
    target: list[list[str]] | None = None
    written: list[list[str]] | None = None
    written_groups: Tensor | None = None


def load(checkpoint: Path, data: Path | None) -> Loaded:
    """Load a model of any of the kinds, on the CPU.

    Raises:
        UserError: it cannot be used, or the data is missing or not the model's.
    """
    from fairseq import checkpoint_utils, tasks
    from fairseq.models import ARCH_MODEL_REGISTRY, FairseqEncoderDecoderModel

    for name in ("fairseq", "hydra"):
        logging.getLogger(name).setLevel(logging.WARNING)
    state = read_checkpoint(checkpoint)
    task_name, arch = kind(state)
    model_class = ARCH_MODEL_REGISTRY.get(arch)
    if model_class is None:
        raise UserError(f"{checkpoint} is a model of the architecture {shown(arch)}, unknown here")
    if issubclass(model_class, FairseqEncoderDecoderModel):
        return load_translation_model(checkpoint, data)
    overrides: dict[str, Any] = {}
    if data is not None:
        data = first_folder(data)
        if not data.is_dir():
            raise UserError(f"{data} is no folder; give the model's binarised data")
        overrides["data"] = str(data)
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), overrides)
        noted = state["cfg"].task
        if data is None and (found := noted_data(checkpoint, noted.get("data"))):
            noted.data = overrides["data"] = str(found)
        task = tasks.setup_task(state["cfg"].task)
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], overrides, task, state=state
        )
    except Exception as error:  # of many kinds: fairseq believes what the files say
        raise UserError(
            f"cannot load {checkpoint} of the task {shown(task_name)}: {first_line(error)}; give "
            "--data, the folder of its dictionary"
        ) from None
    return Loaded(model, cfg, task, first_folder(Path(str(cfg.task.data))))


class Reader:
    """Reads raw lines with a model and notes what it attends to.

    Args:
        checkpoint: of a translation model, a language model or a sentence encoder.
        data: the folder of its dictionaries; None for that of its training.
        tokenizer, codes: as in `settings_of`.

    Raises:
        UserError: they cannot be used.
    """

    def __init__(
        self, checkpoint: Path, data: Path | None, tokenizer: str | None, codes: Path | None
    ) -> None:
        self.model, _, self.task, folder = load(checkpoint, data)
        self.model.eval()
        self.name = checkpoint.name
        self.family = self._family()
        languages = (
            getattr(self.task.cfg, f"{side}_lang", None) or "en" for side in ("source", "target")
        )
        source_language, target_language = languages
        try:
            self.pipelines = [
                TextPipeline(language, language,
                             **settings_of(folder, language, tokenizer, codes)._asdict())
                for language in (source_language, target_language)
            ]  # fmt: skip
        except ValueError as error:  # no merges
            raise UserError(str(error)) from None
        self.pieces = None  # a BERT's own tokenizer, if it has one
        if self.family == SENTENCE_ENCODER and (path := find_tokenizer(str(folder))) is not None:
            self.pieces = WordPiece(path).pieces
        self.source_words = self.task.source_dictionary
        self.target_words = self.task.target_dictionary
        self.groups = [groups_of(words) for words in (self.source_words, self.target_words)]
        self.static = static_keys(self.model)

    def _family(self) -> str:
        from ...attention.relative import RelativeAttention

        if any(isinstance(module, RelativeAttention) for module in self.model.modules()):
            return TRANSFORMER_XL
        if not hasattr(self.model, "decoder"):
            return SENTENCE_ENCODER
        return TRANSLATION if hasattr(self.model, "encoder") else LANGUAGE_MODEL

    @property
    def of_documents(self) -> bool:
        """Whether it translates documents."""
        return self.family == TRANSLATION and (hands_on(self.model) or context_of(self.task) > 0)

    @property
    def batches(self) -> bool:
        """Whether several lines can be read side by side."""
        return self.family != TRANSFORMER_XL  # written memory would read the padding

    def encode(self, line: str, side: int = 0) -> Tensor:
        """The numbers of a raw line's words, with the end mark.

        Raises:
            ValueError: there are too many of them.
        """
        words = (self.source_words, self.target_words)[side]
        pieces = self.pieces(line) if self.pieces else self.pipelines[side].split(line)
        limit = self.model.max_positions()
        limit = min(limit) if isinstance(limit, tuple) else limit
        limit = min(MOST_TOKENS, limit or MOST_TOKENS)
        limit -= self.family == SENTENCE_ENCODER  # <s> stands in front
        if len(pieces) >= limit:
            raise ValueError(f"{len(pieces)} tokens are too many, the limit is {limit - 1}")
        return torch.tensor([*map(words.index, pieces), words.eos()])

    @torch.no_grad()
    def read(self, sources: Sequence[Tensor], targets: Sequence[Tensor] | None = None,
             beam: int = 4) -> Reading:  # fmt: skip
        """Read some lines.

        Args:
            sources: from :meth:`encode`.
            targets: of a translation model; None: it translates them itself, with ``beam``.
            beam: of its search.
        """
        if self.family == TRANSLATION:
            return self._translate(sources, targets or self._search(sources, beam))
        if self.family == SENTENCE_ENCODER:
            mark = torch.tensor([self.source_words.bos()])
            tokens = self._padded([torch.cat([mark, line]) for line in sources])
            with self._watching() as (maps, states):
                self.model(tokens, features_only=True)
            found = views(maps, self.static, self.groups[0][tokens])
            return Reading(found, states_by_layer(states), source=self._words(tokens, 0))
        rows = [torch.cat([line[-1:], line[:-1]]) for line in sources]  # </s> begins a text
        if self.family == LANGUAGE_MODEL:
            tokens = self._padded(rows)
            with self._watching() as (maps, states):
                self.model(tokens)
            found = views(maps, self.static, target=self.groups[1][tokens])
        else:
            found, tokens, states = self._stream(rows)
        return Reading(found, states_by_layer(states), target=self._words(tokens, 1))

    def _translate(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Reading:
        source = self._padded(sources, left=True)
        written = self._padded(targets)
        previous = self._padded([torch.cat([line[-1:], line[:-1]]) for line in targets])
        with self._watching() as (maps, states):
            self.model(source, source.ne(self.source_words.pad()).sum(1), previous)
        found = views(maps, self.static, self.groups[0][source], self.groups[1][previous])
        return Reading(
            found, states_by_layer(states), self._words(source, 0), self._words(previous, 1),
            self._words(written, 1), self.groups[1][written],
        )  # fmt: skip

    def _search(self, sources: Sequence[Tensor], beam: int) -> list[Tensor]:
        """The model's own translations."""
        import argparse

        options = argparse.Namespace(beam=beam, max_len_a=1.2, max_len_b=10, lenpen=1)
        generator = self.task.build_generator([self.model], options)
        dataset = self.task.build_dataset_for_inference(list(sources), list(map(len, sources)))
        sample = dataset.collater([dataset[index] for index in range(len(sources))])
        found = self.task.inference_step(generator, [self.model], sample)
        by_line = dict(zip(sample["id"].tolist(), found))
        return [by_line[number][0]["tokens"].cpu() for number in range(len(sources))]

    def _stream(self, rows: Sequence[Tensor]) -> tuple[list[View], Tensor, dict[str, list[Tensor]]]:
        """One text, segment by segment, as Transformer-XL reads it."""
        (tokens,) = rows
        decoder = self.model.decoder
        memory = 0 if decoder.memory is None else decoder.memory.tokens
        segment = self.model.args.tokens_per_sample
        with self._watching() as (maps, states):
            self.model(tokens[None], segment=segment)
        groups = [self.groups[1][part][None] for part in tokens.split(segment)]
        written = memory if decoder.recurrent else 0
        return segment_views(maps, groups, memory, written, self.static), tokens[None], states

    @contextmanager
    def _watching(self) -> Iterator[tuple[Any, dict[str, list[Tensor]]]]:
        """Record attention, and each layer's output as B x Q x C."""
        states: dict[str, list[Tensor]] = {}
        rows_first = self.family == TRANSFORMER_XL

        def note(name: str, _: Any, __: Any, out: Any) -> None:
            state = out[0] if isinstance(out, tuple) else out
            states.setdefault(name, []).append(
                state.detach() if rows_first else state.detach().transpose(0, 1)
            )

        handles = [
            module.register_forward_hook(partial(note, name))
            for name, module in self.model.named_modules()
            if LAYER.fullmatch(name)
        ]
        try:
            with recording(self.model) as maps:
                yield maps, states
        finally:
            for handle in handles:
                handle.remove()

    def _padded(self, lines: Sequence[Tensor], left: bool = False) -> Tensor:
        from fairseq.data.data_utils import collate_tokens

        return collate_tokens(list(lines), self.source_words.pad(), left_pad=left)

    def _words(self, tokens: Tensor, side: int) -> list[list[str]]:
        words = (self.source_words, self.target_words)[side]
        return [[words[number] for number in row.tolist()] for row in tokens]
