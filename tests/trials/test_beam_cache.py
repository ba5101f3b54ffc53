"""Caches that never move (``attention/beam_cache.py``), against no cache at all.

Whatever a search does with its hypotheses, in whatever order: after every step the newest output is
that of the hypotheses' whole texts, read at once.
"""

import functools
from random import Random
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from helpers.explored import run_machine
from helpers.language_models import scores
from helpers.random_models import EXACT, build, dictionary, sentences
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fairseq_mem.attention import beam_cache
from fairseq_mem.updates import UPDATES

END, PAD, WORDS = dictionary().eos(), dictionary().pad(), len(dictionary())
SOURCE = sentences([6, 3, 5, 1], left_pad=True, seed=1)
MACHINES = 4  # a seed
STEPS = 25
numbers = st.integers(0, 2**16)


@functools.lru_cache(maxsize=32)
def model_of(options: tuple[tuple[str, object], ...], prepared: bool):
    arch = "mem_transformer_lm" if "tokens_per_sample" in dict(options) else "mem_transformer"
    model = build(arch, **dict(options))
    if prepared:
        model.make_generation_fast_(need_attn=False)
    return model


OURS = {
    "memory_static": st.sampled_from([0, 2]),
    "attention_sink": st.booleans(),
    "memory_positions": st.booleans(),
    "memory_lesion": st.sampled_from(["none", "none", "no-read", "zero-read"]),
    "memory_lesion_slots": st.sampled_from([None, "0"]),
    "decoder_normalize_before": st.booleans(),
    "decoder_learned_pos": st.booleans(),
}
TRANSLATION = st.fixed_dictionaries({
    **OURS,
    "memory_update": st.sampled_from(sorted(UPDATES)),
    "memory_tokens": st.sampled_from([3, 1, 0]),
    "memory_decoder_tokens": st.sampled_from([0, 2, 1]),
    "memory_lesion_scope": st.sampled_from(["all", "decoder", "cross", "encoder"]),
})  # fmt: skip
LANGUAGE_MODEL = st.fixed_dictionaries({
    **OURS,
    "memory_tokens": st.sampled_from([3, 1]),
    "tokens_per_sample": st.just(40),
    "decoder_input_dim": st.just(16),
    "decoder_output_dim": st.just(16),
    "max_target_positions": st.just(60),
})  # fmt: skip


def chosen(options: dict[str, object], prepared: bool):
    """The model; a lesion of some slots where there is one."""
    slots = max(options["memory_tokens"], options.get("memory_decoder_tokens", 0))
    if options["memory_lesion"] == "none" or slots == 0:
        options = {**options, "memory_lesion_slots": None}
    return model_of(tuple(sorted(options.items(), key=lambda item: item[0])), prepared)


class Hypotheses(RuleBasedStateMachine):
    """Texts that grow word by word, beside the caches of what has been read of them."""

    def start(self, model, groups: int, beam: int) -> None:
        self.model, self.beam, self.state = model, beam, {}
        self.groups = list(range(groups))  # the sentences that are left
        self.tokens = torch.full((groups * beam, 1), END)

    def read(self, tokens: torch.Tensor, state: dict) -> torch.Tensor:
        """The newest output with caches, B x V."""
        raise NotImplementedError

    def whole(self) -> torch.Tensor:
        """The same without: B x V."""
        raise NotImplementedError

    def reorder(self, order: torch.Tensor) -> None:
        self.tokens = self.tokens[order]
        self.model.decoder.reorder_incremental_state_scripting(self.state, order)

    def step(self, words: torch.Tensor) -> None:
        """Read what is new, compare, and write on."""
        with torch.no_grad():
            found, expected = self.read(self.tokens, self.state), self.whole()
        real = self.tokens[:, -1].ne(PAD)
        torch.testing.assert_close(found[real], expected[real], **EXACT)
        self.tokens = torch.cat([self.tokens, words[:, None]], dim=1)

    def random_words(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randint(4, WORDS, (len(self.tokens),), generator=generator)

    @rule(number=numbers)
    def every_hypothesis_goes_on(self, number):
        self.step(self.random_words(number))

    @rule(number=numbers)
    def a_prefix_is_forced(self, number):
        words = self.random_words(number).view(-1, self.beam)
        self.step(words[:, :1].expand(-1, self.beam).flatten())

    @rule(number=numbers)
    def hypotheses_change_their_places(self, number):
        """Within their sentences: some go on several times, some not at all."""
        random = Random(number)
        self.reorder(torch.tensor([
            group * self.beam + random.randrange(self.beam)
            for group in range(len(self.groups)) for _ in range(self.beam)
        ]))  # fmt: skip

    @precondition(lambda self: len(self.groups) > 1)
    @rule(number=numbers)
    def sentences_end(self, number):
        random = Random(number)
        left = sorted(random.sample(range(len(self.groups)), random.randint(1, len(self.groups))))
        self.groups = [self.groups[place] for place in left]
        self.reorder(torch.tensor([
            place * self.beam + random.randrange(self.beam)
            for place in left for _ in range(self.beam)
        ]))  # fmt: skip

    @precondition(lambda self: self.tokens.size(1) > 2)
    @rule()
    def everything_is_read_anew(self):
        """With fresh caches, word by word."""
        self.state = {}
        with torch.no_grad():
            for length in range(1, self.tokens.size(1)):
                self.read(self.tokens[:, :length], self.state)

    @precondition(lambda self: self.beam == 1 and self.state)
    @rule(number=numbers)
    def rows_change_their_places(self, number):
        """Without beams any row may go on anywhere."""
        random = Random(number)
        rows = len(self.groups)
        order = [random.randrange(rows) for _ in range(random.randint(1, 4))]
        self.groups = [self.groups[row] for row in order]
        self.reorder(torch.tensor(order))


class Translations(Hypotheses):
    """Hypotheses of several sentences each."""

    @initialize(
        options=TRANSLATION, prepared=st.booleans(), beam=st.integers(1, 4),
        groups=st.integers(1, len(SOURCE)),
    )  # fmt: skip
    def begin(self, options, prepared, beam, groups):
        self.start(chosen(options, prepared), groups, beam)
        self.model.set_beam_size(beam)
        order = torch.arange(groups).repeat_interleave(beam)
        with torch.no_grad():
            encoder_out = self.model.encoder(SOURCE[:groups])
        self.encoder_out = self.model.encoder.reorder_encoder_out(encoder_out, order)
        self.model.set_beam_size(1)

    def read(self, tokens, state):
        out, extra = self.model.decoder(
            tokens, encoder_out=self.encoder_out, incremental_state=state
        )
        self.attention = extra["attn"][0][:, -1]
        return out[:, -1]

    def whole(self):
        source = SOURCE[self.groups].repeat_interleave(self.beam, 0)
        out, extra = self.model(source, source.ne(PAD).sum(1), self.tokens)
        torch.testing.assert_close(self.attention, extra["attn"][0][:, -1], **EXACT)
        return out[:, -1]

    def reorder(self, order):
        super().reorder(order)
        self.encoder_out = self.model.encoder.reorder_encoder_out(self.encoder_out, order)

    @precondition(lambda self: self.beam > 1 and len(self.groups) > 1 and self.state)
    @rule(number=numbers)
    def a_hypothesis_leaves_its_sentence(self, number):
        """That is refused, and nothing has changed."""
        random = Random(number)
        order = torch.arange(len(self.tokens))
        order[random.randrange(self.beam)] += self.beam
        with pytest.raises(ValueError, match="from one sentence to another"):
            self.model.decoder.reorder_incremental_state_scripting(self.state, order)
        with pytest.raises(ValueError, match="from one sentence to another"):
            self.model.encoder.reorder_encoder_out(self.encoder_out, order)


class LanguageModelTexts(Hypotheses):
    """Rows of a language model, which may begin with padding."""

    @initialize(options=LANGUAGE_MODEL, prepared=st.booleans(), padded=st.lists(
        st.integers(0, 3), min_size=1, max_size=4
    ))  # fmt: skip
    def begin(self, options, prepared, padded):
        if max(padded) > 0:  # step by step fairseq counts padding among the positions
            options = {**options, "no_token_positional_embeddings": True}
            options |= {"memory_positions": False, "decoder_learned_pos": False}
        self.start(chosen(options, prepared), len(padded), 1)
        self.tokens = torch.full((len(padded), 1 + max(padded)), PAD)
        for row, count in enumerate(padded):
            self.tokens[row, count:] = 7
            self.tokens[row, count] = END
        with torch.no_grad():
            for length in range(1, self.tokens.size(1)):
                self.read(self.tokens[:, :length], self.state)

    def read(self, tokens, state):
        return self.model.decoder(tokens, incremental_state=state)[0].log_softmax(-1)[:, -1]

    def whole(self):
        return scores(self.model, self.tokens)[:, -1]


@pytest.mark.tries(sample=1, soak=50)
@pytest.mark.parametrize("machine", [Translations, LanguageModelTexts], ids=lambda m: m.__name__)
@pytest.mark.parametrize("capacity", [1, beam_cache.FIRST_CAPACITY])
def test_every_step_is_that_without_a_cache(machine, capacity, seed):
    with mock.patch.object(beam_cache, "FIRST_CAPACITY", capacity):
        run_machine(seed, MACHINES, STEPS, machine)
