"""Small `mem_transformer_xl` models, streams of words, and the task that makes streams."""

from types import SimpleNamespace

import torch

from fairseq_mem.streaming.batches import TokenStream
from fairseq_mem.tasks.streaming_language_modeling import StreamingLanguageModelingTask
from helpers import random_models
from helpers.random_models import dictionary


def build(**options):
    options = {"cache_length": 5, "memory_tokens": 0, **options}
    return random_models.build("mem_transformer_xl", **options)


def words(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """B x T random words."""
    made = dictionary()
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(made.nspecial, len(made), (rows, length), generator=generator)


def features(model, tokens, **options):
    return model(tokens, features_only=True, **options)[0]


class Sentences(list):
    """Stands in for fairseq's indexed data set."""

    @property
    def sizes(self):
        return [len(sentence) for sentence in self]


def text(length: int) -> TokenStream:
    """The words 10, 11, 12, ... in sentences of 1, 2, 3, 1, 2, 3, ... words."""
    sentences, start = Sentences(), 10
    while start < 10 + length:
        stop = min(start + len(sentences) % 3 + 1, 10 + length)
        sentences.append(torch.arange(start, stop))
        start = stop
    return TokenStream("train", sentences, first=2)


def streaming_task(folder, **options) -> StreamingLanguageModelingTask:
    dictionary().save(str(folder / "dict.txt"))
    options = {"data": str(folder), "tokens_per_sample": 4, "batch_size": 2, **options}
    return StreamingLanguageModelingTask(SimpleNamespace(**options))
