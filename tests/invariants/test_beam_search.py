"""Beam search with caches that never move, against one without any cache."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator
from helpers.random_models import build, dictionary, sentences

from fairseq_mem.attention import beam_cache

SOURCE = sentences([6, 3, 5, 9, 4], left_pad=True, seed=1)
VARIANTS = {
    "encoder": dict(memory_tokens=3),
    "both": dict(memory_tokens=3, memory_decoder_tokens=2),
    "both, positions": dict(memory_tokens=3, memory_decoder_tokens=2, memory_positions=True),
    "bottleneck": dict(memory_tokens=3, memory_update="bottleneck"),
    "lesion": dict(
        memory_tokens=3,
        memory_decoder_tokens=2,
        memory_lesion="no-read",
        memory_lesion_scope="all",
    ),
    "zero-read": dict(
        memory_tokens=3,
        memory_decoder_tokens=2,
        memory_lesion="zero-read",
        memory_lesion_scope="all",
    ),
}


def translate(options, cached, beam=4, prepared=True, **search):
    """All hypotheses, each as tokens and score."""
    model = build(decoder_layers=3, **options)
    if prepared:
        model.make_generation_fast_(need_attn=False)
    generator = SequenceGenerator(
        [model], dictionary(), beam_size=beam, max_len_a=1.2, max_len_b=40, **search
    )
    if not cached:
        generator.model.has_incremental = False
        model.set_beam_size(1)
    sample = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(1).sum(1)}}
    found = generator.generate([model], sample)
    return [[(h["tokens"].tolist(), h["score"].item()) for h in beams] for beams in found]


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("prepared", [False, True])
def test_the_search_finds_what_it_finds_without_any_cache(options, prepared):
    """Sentences of different lengths end at different steps, and caches outgrow what they had."""
    plain = translate(options, cached=False, prepared=prepared)
    cached = translate(options, cached=True, prepared=prepared)
    longest = max(len(tokens) for beams in plain for tokens, _ in beams)
    assert longest > beam_cache.FIRST_CAPACITY  # the caches had to grow
    for one, other in zip(plain, cached, strict=True):
        assert [tokens for tokens, _ in one] == [tokens for tokens, _ in other]
        for (_, score), (_, same) in zip(one, other, strict=True):
            assert score == pytest.approx(same, abs=1e-5)


@pytest.mark.parametrize(
    "search",
    [dict(beam=1), dict(beam=7), dict(len_penalty=0.6, min_len=9)],
)
def test_other_searches(search):
    options = VARIANTS["both"]
    plain, cached = (translate(options, cached, **search) for cached in (False, True))
    assert [[t for t, _ in beams] for beams in plain] == [[t for t, _ in beams] for beams in cached]


def repeats(words, size):
    """How many n-grams of a list come a second time."""
    ngrams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return len(ngrams) - len(set(ngrams))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("step", [0, 1, 4, 19])
def test_repeated_ngrams_are_banned_as_a_loop_bans_them(size, step):
    """The buffer is longer than what is written, and holds padding."""
    beam = 3
    tokens = torch.full((2 * beam, 24), dictionary().pad())
    tokens[:, 0] = dictionary().eos()
    tokens[:, 1 : step + 1] = torch.randint(4, 7, (2 * beam, step))
    scores = torch.rand(2 * beam, 12)
    expected = scores.clone()
    for row in range(2 * beam):
        written = tokens[row, 1 : step + 1].tolist()
        for word in range(12):
            if repeats([*written, word], size) > repeats(written, size):
                expected[row, word] = float("-inf")
    banned = NGramRepeatBlock(size)(tokens, scores, 2, beam, step)
    assert torch.equal(banned, expected) and torch.equal(scores, expected)
    assert step < 19 or expected.isinf().any()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("arch", ["transformer", "mem_transformer"])
def test_no_repeat_ngram_size(arch, size):
    """``--no-repeat-ngram-size``, which fairseq alone forgets without a CUDA extension."""
    model = build(arch, seed=3, **VARIANTS["both"])

    def search(size):
        generator = SequenceGenerator(
            [model], dictionary(), beam_size=4, min_len=15, max_len_b=20, no_repeat_ngram_size=size
        )
        sample = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(1).sum(1)}}
        found = generator.generate([model], sample)
        return [hypothesis["tokens"][:-1].tolist() for beams in found for hypothesis in beams]

    assert sum(repeats(words, size) for words in search(0)) > 0
    assert sum(repeats(words, size) for words in search(size)) == 0


def test_a_forced_prefix_may_repeat_itself():
    model = build(**VARIANTS["both"])
    generator = SequenceGenerator(
        [model], dictionary(), beam_size=3, min_len=8, max_len_b=12, no_repeat_ngram_size=2
    )
    sample = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(1).sum(1)}}
    prefix = torch.tensor([[7, 8, 7, 8, 7]]).repeat(len(SOURCE), 1)
    for hypotheses in generator.generate([model], sample, prefix_tokens=prefix):
        for hypothesis in hypotheses:
            words = hypothesis["tokens"][:-1].tolist()
            assert words[:5] == [7, 8, 7, 8, 7] and hypothesis["score"].isfinite()
            assert repeats(words, 2) == repeats(words[:5], 2)


def test_one_copy_of_the_source_a_sentence():
    model = build(memory_tokens=3)
    model.set_beam_size(4)
    encoder_out = model.encoder(SOURCE)
    order = torch.arange(5).repeat_interleave(4)
    shared = model.encoder.reorder_encoder_out(encoder_out, order)
    assert shared["encoder_out"][0] is encoder_out["encoder_out"][0]
    within = torch.tensor([1, 0, 3, 3, 5, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19])
    again = model.encoder.reorder_encoder_out(shared, within)
    assert again["encoder_out"][0] is encoder_out["encoder_out"][0]
    two_left = model.encoder.reorder_encoder_out(again, within[[4, 5, 6, 7, 16, 17, 18, 19]])
    assert torch.equal(two_left["encoder_out"][0], encoder_out["encoder_out"][0][:, [1, 4]])


def test_searches_with_one_model_do_not_disturb_each_other():
    """A greedy search does not tell its beam size, and must not inherit the last one's."""
    model = build(memory_tokens=3, memory_decoder_tokens=2)
    sample = {"net_input": {"src_tokens": SOURCE[:4], "src_lengths": SOURCE[:4].ne(1).sum(1)}}

    def search(beam):
        generator = SequenceGenerator([model], dictionary(), beam_size=beam, max_len_b=20)
        found = generator.generate([model], sample)
        return [[h["tokens"].tolist() for h in beams] for beams in found]

    greedy, four, two = search(1), search(4), search(2)
    assert (search(1), search(4), search(2)) == (greedy, four, two)
    model.set_beam_size(1)
    assert search(1) == greedy


def test_leaving_the_beam_is_refused():
    model = build(memory_tokens=3)
    model.set_beam_size(2)
    state, tokens = {}, torch.full((4, 1), 2)
    encoder_out = model.encoder.reorder_encoder_out(
        model.encoder(SOURCE[:2]), torch.tensor([0, 0, 1, 1])
    )
    model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)
    with pytest.raises(ValueError, match="from one sentence to another, with beams of 2"):
        model.decoder.reorder_incremental_state_scripting(state, torch.tensor([0, 2, 1, 3]))


@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_where_the_processor_has_it(supported, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    models = [
        build(memory_tokens=3, memory_decoder_tokens=2, memory_bf16=bf16, double=False)
        for bf16 in (False, True)
    ]
    for model in models:
        model.prepare_for_inference_(SimpleNamespace(generation=SimpleNamespace()))
    previous = torch.tensor([[2, 5, 6]])
    exact, rough = (model(SOURCE[:1], None, previous)[0] for model in models)
    assert rough.dtype == (torch.bfloat16 if supported else torch.float32)
    assert ("no bfloat16" in caplog.text) == (not supported)
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.1)
