"""What is carried from text to text, against one long pass through slow references.

Streams (Transformer-XL: cache and memory from segment to segment) and documents (memory from
sentence to sentence): whatever is read in between, in whatever pieces and with whatever mates.
"""

import functools
from random import Random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset
from helpers import recurrent_models
from helpers.explored import run_machine
from helpers.random_models import EXACT, build, dictionary
from helpers.recurrent_models import features, words
from helpers.references.documents import encode_document
from helpers.references.relative_attention import stream
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fairseq_mem.streaming.documents import DocumentPairs, Documents, Windows, padded
from fairseq_mem.streaming.remembered import read_in_front, remember
from fairseq_mem.streaming.resuming import StreamPlace

numbers = st.integers(0, 2**16)
PAD, END = dictionary().pad(), dictionary().eos()


@functools.lru_cache(maxsize=16)
def stream_model(options: tuple[tuple[str, object], ...]):
    return recurrent_models.build(
        decoder_embed_dim=8, decoder_ffn_embed_dim=8, **dict(options)
    )  # fmt: skip


STREAMS = st.fixed_dictionaries({
    "memory_tokens": st.sampled_from([2, 1, 0]),
    "memory_recurrence": st.sampled_from([2, 1, 0]),
    "memory_carry": st.sampled_from(["plain", "gate"]),
    "cache_length": st.sampled_from([3, 0, 1, 20]),
    "decoder_normalize_before": st.booleans(),
    "memory_static": st.sampled_from([0, 1]),
    "attention_sink": st.booleans(),
})  # fmt: skip


class Streams(RuleBasedStateMachine):
    """Rows that are read on and on, in training and in evaluation side by side."""

    @initialize(options=STREAMS, rows=st.integers(1, 2), segment=st.integers(1, 3))
    def begin(self, options, rows, segment):
        self.model = stream_model(tuple(options.items()))
        self.model.decoder.streams.clear()
        self.rows, self.segment = rows, segment
        self.segments = {True: [], False: []}  # what has been read in each mode: B x T each
        self.found = {True: [], False: []}

    def read(self, training: bool, tokens: torch.Tensor) -> None:
        """Read on; a piece is one segment or several, the last of which may be shorter."""
        position = sum(part.size(1) for part in self.segments[training])
        self.model.train(training)
        out = features(self.model, tokens, segment=self.segment, position=position)
        self.found[training].append(out.detach())
        self.segments[training] += tokens.split(self.segment, dim=1)

    @rule(training=st.booleans(), length=st.integers(1, 4), number=numbers)
    def a_piece_is_read(self, training, length, number):
        if sum(part.size(1) for part in self.segments[training]) < 9:
            self.read(training, words(self.rows, length, seed=number))

    @rule(training=st.booleans())
    def another_epoch_begins(self, training):
        self.compare(training)
        self.segments[training], self.found[training] = [], []

    @rule(rows=st.integers(1, 3), number=numbers)
    def a_text_of_its_own_is_read(self, rows, number):
        """Without a position: nothing is kept of it."""
        features(self.model, words(rows, 4, seed=number), segment=2)

    @precondition(lambda self: self.segments[True])
    @rule()
    def training_is_resumed_from_a_checkpoint(self):
        """Evaluation begins anew, as in a fresh process."""
        self.compare(False)
        self.segments[False], self.found[False] = [], []
        place = StreamPlace()
        place.streams = self.model.decoder.streams
        saved = place.to_save()
        place.restore(saved)

    def compare(self, training: bool) -> None:
        """With one long pass of the reference, row by row."""
        if not self.segments[training]:
            return
        found = torch.cat(self.found[training], dim=1)
        with torch.no_grad():
            for row in range(self.rows):
                read = [part[row] for part in self.segments[training]]
                expected = stream(self.model.decoder, read)
                torch.testing.assert_close(found[row], expected, **EXACT)

    def teardown(self):
        if hasattr(self, "model"):
            self.compare(True)
            self.compare(False)
            self.model.decoder.streams.clear()


@functools.lru_cache(maxsize=16)
def document_model(options: tuple[tuple[str, object], ...]):
    return build(
        memory_recurrence=3, encoder_embed_dim=8, encoder_ffn_embed_dim=8, decoder_layers=1,
        decoder_embed_dim=8, **dict(options),
    )  # fmt: skip


DOCUMENTS = st.fixed_dictionaries({
    "memory_tokens": st.sampled_from([2, 1]),
    "memory_carry": st.sampled_from(["gate", "plain"]),
    "encoder_normalize_before": st.booleans(),
})  # fmt: skip
# the words of each sentence; 0 is one of the end mark alone
DOCUMENT = st.lists(st.sampled_from([3, 1, 0, 4, 2, 5]), min_size=1, max_size=4)


class DocumentsOfAText(RuleBasedStateMachine):
    """Documents that end and begin, read with others, in any batches, in windows, to their end."""

    @initialize(options=DOCUMENTS, first=DOCUMENT, number=numbers, longest=st.sampled_from([6, 5]))
    def begin(self, options, first, number, longest):
        options = {**options, "max_source_positions": longest}  # 5: some sentences are too long
        self.model = document_model(tuple(options.items())).eval()
        self.source, self.lengths, self.expected = [], [], []
        self.a_document_begins(first, number)

    @precondition(lambda self: len(self.source) < 9)
    @rule(sizes=DOCUMENT, number=numbers)
    def a_document_begins(self, sizes, number):
        random = Random(number)
        document = [
            torch.tensor([random.randrange(4, len(dictionary())) for _ in range(size)] + [END])
            for size in sizes
        ]
        self.source += document
        self.lengths.append(len(document))
        self.expected += self.one_by_one(document)

    def one_by_one(self, document):
        """The reference's outputs; a sentence that is too long hands on what it was given."""
        encoder = self.model.encoder
        fitting = [row for row in document if len(row) <= encoder.max_positions()]
        with torch.no_grad():
            read = iter(encode_document(encoder, fitting))
        return [next(read) if len(row) <= encoder.max_positions() else None for row in document]

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(row) for row in self.source])

    @property
    def documents(self) -> Documents:
        return Documents(self.lengths)

    def compare(self, out: torch.Tensor, ids: list[int]) -> None:
        """``encoder_out`` of sentences by their numbers."""
        for row, number in enumerate(ids):
            expected = self.expected[number]
            if expected is not None:
                torch.testing.assert_close(out[: len(expected), row], expected, **EXACT)

    @rule(most_tokens=st.sampled_from([1, 20, 60, 9999]), number=numbers)
    def all_is_read_and_then_batches_in_any_order(self, most_tokens, number):
        """As validation and decoding do it."""
        encoder = self.model.encoder
        before = remember(encoder, self.source, self.sizes, self.documents, most_tokens)
        fitting = [n for n, expected in enumerate(self.expected) if expected is not None]
        random = Random(number)
        random.shuffle(fitting)
        while fitting:
            count = random.randint(1, len(fitting))
            batch, fitting = fitting[:count], fitting[count:]
            tokens = padded([self.source[n] for n in batch], PAD)
            memory = {encoder: before.before(torch.tensor(batch))}
            with torch.no_grad():
                self.compare(encoder(tokens, memory=memory)["encoder_out"][0], batch)

    @precondition(lambda self: None not in self.expected)
    @rule(size=st.integers(1, 4), epoch=st.integers(1, 5), number=numbers)
    def windows_are_read(self, size, epoch, number):
        """As training does it, with all that is in front of each window read before."""
        encoder, sizes = self.model.encoder, list(self.sizes)
        side = (self.source, sizes, dictionary())
        pairs = DocumentPairs(LanguagePairDataset(*side, *side), self.documents, "train")
        data = Windows(pairs, size, 1, hand_on=True, before=99)
        data.set_epoch(epoch)
        random = Random(number)
        order = random.sample(range(len(data)), len(data))
        while order:
            count = random.randint(1, len(order))
            batch = data.collater([data[n] for n in order[:count]])
            order = order[count:]
            inputs = batch["net_input"]
            tokens = inputs["src_tokens"]
            # fairseq pads sources on the left; the reference compares what is in front
            tokens = padded([row[row.ne(PAD)] for row in tokens], PAD)
            begins = read_in_front(encoder, inputs["steps"][0], batch["before"])
            with torch.no_grad():
                out = encoder(tokens, steps=inputs["steps"], memory={encoder: begins})
            self.compare(out["encoder_out"][0], batch["id"].tolist())


@pytest.mark.tries(sample=2, soak=100)
@pytest.mark.parametrize(("machine", "machines"), [(Streams, 3), (DocumentsOfAText, 3)])
@pytest.mark.filterwarnings("ignore")
def test_it_is_one_long_pass(machine, machines, seed):
    run_machine(seed, machines, 12, machine)
