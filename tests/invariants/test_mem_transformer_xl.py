"""`mem_transformer_xl`: attention, cache, memory handed on, streams; then fairseq's commands."""

import logging
import math
import random
import re
from types import SimpleNamespace

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim.amp_optimizer import AMPOptimizer
from helpers.commands import fairseq, last_line, run, two_workers
from helpers.random_models import SMALL, dictionary
from helpers.random_models import build as build_any
from helpers.references.relative_attention import stream

from fairseq_mem import LabelSmoothedCrossEntropyCriterion, UserError
from fairseq_mem.attention.relative import RelativeAttention, distance_codes
from fairseq_mem.command_line import check_arguments
from fairseq_mem.streaming.batches import Rows, StreamBatches, TokenStream, check_length
from fairseq_mem.streaming.state import StreamState
from fairseq_mem.tasks.streaming_language_modeling import StreamingLanguageModelingTask

EXACT = dict(rtol=0, atol=1e-10)


def build(**options):
    options = {"cache_length": 5, "memory_tokens": 0, **options}
    return build_any("mem_transformer_xl", **options)


def words(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """B x T random words."""
    made = dictionary()
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(made.nspecial, len(made), (rows, length), generator=generator)


def features(model, tokens, **options):
    return model(tokens, features_only=True, **options)[0]


# ------------------------------------------------------------ against loops


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(cache_length=0),
        dict(decoder_normalize_before=True),
        dict(memory_tokens=3),
        dict(memory_tokens=3, memory_recurrence=2),
        dict(memory_tokens=3, memory_recurrence=2, cache_length=0, decoder_normalize_before=True),
    ],
    ids=str,
)
def test_segments_equal_the_reference(options, training):
    model = build(**options).train(training)
    tokens = words(2, 11)
    with torch.no_grad():
        whole = features(model, tokens, segment=4)
        expected = torch.stack([stream(model.decoder, row.split(4)) for row in tokens])
    torch.testing.assert_close(whole, expected, **EXACT)


def test_zero_read_equals_the_reference():
    model = build(memory_tokens=3, memory_recurrence=1, memory_lesion="zero-read")
    tokens = words(1, 8)
    with torch.no_grad():
        expected = stream(model.decoder, tokens[0].split(4), drop_memory=True)
        torch.testing.assert_close(features(model, tokens, segment=4)[0], expected, **EXACT)


def test_no_read_is_a_model_without_memory():
    """Text does not see memory, and memory moves no distances."""
    lesioned = build(memory_tokens=3, memory_lesion="no-read")
    without = build()
    without.load_state_dict(lesioned.state_dict())
    tokens = words(2, 9)
    torch.testing.assert_close(
        features(lesioned, tokens, segment=4), features(without, tokens, segment=4), **EXACT
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("segment", [1, 3, 8])
def test_cached_evaluation_equals_one_long_pass_without_a_cache(segment, training):
    model = build(cache_length=100).train(training)
    alone = build(cache_length=0).train(training)
    alone.load_state_dict(model.state_dict())
    tokens = words(2, 23)
    cached = torch.cat(
        [
            model(part, position=number * segment)[0]
            for number, part in enumerate(tokens.split(segment, dim=1))
        ],
        dim=1,
    )
    torch.testing.assert_close(cached, alone(tokens)[0], **EXACT)


def test_what_differs_from_the_original_as_the_readme_says():
    model = build(
        memory_tokens=3, memory_recurrence=2, dropout=0.9, decoder_normalize_before=True,
        adaptive_softmax_cutoff="6,12,18",
    )  # fmt: skip
    decoder = model.decoder
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert all(shapes[f"decoder.layers.{n}.self_attn.{b}"] == (2, 8) for n in (0, 1) for b in "uv")
    assert not [name for name in shapes if "softmax" in name and "bias" in name]
    assert [tuple(band[1].weight.shape) for band in decoder.embed_tokens.embeddings] == [
        (16, 16)
    ] * 4
    assert isinstance(decoder.layer_norm, torch.nn.LayerNorm)
    memory = decoder.memory.weight
    assert all(not torch.equal(memory[a], memory[b]) for a in range(3) for b in range(a))
    # no dropout on memory, neither where it is read nor where it is written; the text has it
    given = []
    decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    model.train()
    features(model, words(2, 5))
    for part in (given[0][:, :3], given[0][:, -3:]):
        assert torch.equal(part, memory.expand(2, -1, -1))
    assert (given[0][:, 3:-3] == 0).any()


@pytest.mark.parametrize("where", ["XLDecoder", "XLLayer", "RelativeAttention"])
@pytest.mark.parametrize("recurrence", [0, 2])
def test_dropout_that_is_retained_at_inference(where, recurrence):
    """fairseq's `--retain-dropout`: memory's attention and the cached position codes had none."""
    model = build(
        memory_tokens=3, memory_recurrence=recurrence, dropout=0.3, attention_dropout=0.5,
        activation_dropout=0.3,
    )  # fmt: skip
    model.make_generation_fast_(retain_dropout=True, retain_dropout_modules=[where])
    tokens = words(2, 4)
    torch.manual_seed(1)
    one, other = (features(model, tokens) for _ in range(2))
    assert not torch.equal(one, other)
    attention = model.decoder.layers[0].self_attn
    q = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    one, other = (attention._attend_content(q, q, q, None)[0] for _ in range(2))
    assert torch.equal(one, other) == (where != "RelativeAttention")
    known = model.decoder.read_segment(tokens, StreamState())[1].positions
    assert bool(known) == (where != "XLDecoder")


def test_attention_gradients():
    attention = RelativeAttention(4, 2, 0.0).double()
    codes = distance_codes(torch.arange(5, -1, -1), 4)

    def attend(x, past, *_):
        kv = attention.keys_values(torch.cat([x[:, :2], past, x[:, 2:]], dim=1))
        return attention(x, kv, attention.positions(codes), 2, 2, 2, free=True)

    x = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    past = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attend, (x, past, *attention.parameters()))


def test_distances_beyond_the_limit_are_the_limit():
    near, far = build(clamp_distance=3), build()
    tokens = words(1, 9)
    assert not torch.allclose(features(near, tokens), features(far, tokens))
    torch.testing.assert_close(features(near, tokens[:, :4]), features(far, tokens[:, :4]), **EXACT)
    model, x = near.decoder, torch.zeros(1, dtype=torch.float64)
    positions = model._positions(8, x, StreamState())[0]
    three = model.layers[0].self_attn.positions(distance_codes(torch.tensor([3]), 16))
    torch.testing.assert_close(positions[:, :, :6], three.expand(-1, -1, 6), **EXACT)


# ------------------------------------------------------------ what memory can do


def changed(model, where: int, tokens, **options) -> torch.Tensor:
    """Which positions' features change (T booleans) with the word at ``where``."""
    other = tokens.clone()
    other[:, where] = (other[:, where] - 4 + 1) % 20 + 4
    before, after = features(model, tokens, **options), features(model, other, **options)
    return (before - after).abs().amax(dim=(0, 2)) > 1e-9


MEMORIES = [dict(), dict(memory_tokens=3), dict(memory_tokens=3, memory_recurrence=2)]


@pytest.mark.parametrize("memory", MEMORIES, ids=str)
def test_no_word_sees_the_future(memory):
    model = build(**memory)
    tokens = words(1, 12)
    for where in range(12):
        assert not changed(model, where, tokens, segment=4)[:where].any()


def test_memory_alone_carries_over_three_segments_without_a_cache():
    tokens = words(1, 16)
    carried = changed(
        build(memory_tokens=2, memory_recurrence=1, cache_length=0), 1, tokens, segment=4
    )
    assert carried[1:].all()
    for options in (dict(memory_tokens=2), dict()):
        lost = changed(build(cache_length=0, **options), 1, tokens, segment=4)
        assert lost[1:4].all() and not lost[4:].any()


def test_the_cache_reaches_its_length_a_layer():
    """Two layers, segments of 4, a cache of 2."""
    reached = changed(build(cache_length=2), 1, words(1, 16), segment=4)
    assert reached[1:8].all() and not reached[8:].any()  # through the states of words 2 and 3
    reached = changed(build(cache_length=2), 3, words(1, 16), segment=4)
    assert reached[3:12].all() and not reached[12:].any()


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_gradients_reach_back_exactly_k_segments(segments):
    """The loss in a batch's last segment reaches the first word of the batch, and no further."""
    model = build(memory_tokens=2, memory_recurrence=segments, cache_length=3).train()
    embedded = []
    model.decoder.embed_tokens.register_forward_hook(
        lambda module, inputs, output: embedded.append(output) or output.retain_grad()
    )
    piece = 4 * segments
    tokens = words(1, 3 * piece)
    for number, part in enumerate(tokens.split(piece, dim=1)):
        out = features(model, part, segment=4, position=number * piece)
    out[:, -1].pow(2).sum().backward()
    reached = [x.grad is not None and bool(x.grad.any()) for x in embedded]
    assert reached == [False] * (2 * segments) + [True] * segments


@pytest.mark.parametrize("options", [
    dict(), dict(memory_tokens=3), dict(memory_tokens=3, memory_recurrence=2),
    dict(memory_tokens=3, memory_recurrence=1, decoder_normalize_before=True),
    dict(memory_tokens=3, adaptive_softmax_cutoff="6,12"),
    dict(memory_tokens=3, adaptive_softmax_cutoff="6,12", adaptive_softmax_factor=2.0),
], ids=str)  # fmt: skip
def test_every_parameter_gets_a_gradient(options):
    model = build(**options).train()
    tokens = words(2, 13)
    out, target = model(tokens[:, :-1], segment=4, position=0)[0], tokens[:, 1:].flatten()
    if model.decoder.adaptive_softmax is None:
        torch.nn.functional.cross_entropy(out.flatten(0, 1), target).backward()
    else:
        parts = zip(*model.decoder.adaptive_softmax(out, target), strict=True)
        sum(torch.nn.functional.cross_entropy(*part) for part in parts).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_every_parameter_gets_a_gradient_where_memory_is_carried_over():
    """A gradient of zero: torch's distributed training stops where there is none."""
    model = build(memory_tokens=3, memory_recurrence=2).train()
    tokens = words(2, 16)
    for part in (0, 8):
        model.zero_grad()
        model(tokens[:, part : part + 8], segment=4, position=part)[0].sum().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert not model.decoder.memory.weight.grad.any()


def test_memory_adds_its_vectors_and_nothing_else():
    plain = dict(build().named_parameters())
    memory = dict(build(memory_tokens=3, memory_recurrence=2).named_parameters())
    assert memory.keys() - plain.keys() == {"decoder.memory.weight"}
    assert memory["decoder.memory.weight"].shape == (3, 16)
    only = build(memory_tokens=3, memory_only=True)
    trained = {name for name, p in only.named_parameters() if p.requires_grad}
    assert trained == {"decoder.memory.weight"}


def test_the_presets():
    args = SimpleNamespace()
    from fairseq.models import ARCH_CONFIG_REGISTRY

    ARCH_CONFIG_REGISTRY["mem_transformer_xl"](args)
    assert (args.decoder_layers, args.decoder_embed_dim, args.decoder_ffn_embed_dim) == (
        16,
        410,
        2100,
    )
    assert (args.decoder_attention_heads, args.dropout, args.attention_dropout) == (10, 0.1, 0.0)
    assert (args.tokens_per_sample, args.cache_length, args.memory_tokens) == (150, 150, 20)
    small = SimpleNamespace(dropout=0.3)
    ARCH_CONFIG_REGISTRY["mem_transformer_xl_small"](small)
    assert (small.decoder_layers, small.decoder_embed_dim, small.activation_dropout) == (
        4,
        128,
        0.3,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    model = build(memory_tokens=3, memory_recurrence=2, double=False).to(dtype).train()
    for position in (0, 8):
        logits = model(words(2, 8), segment=4, position=position)[0]
        logits.float().pow(2).mean().backward()
        assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# ------------------------------------------------------------ the state of the rows


def test_validation_leaves_the_state_of_training_alone():
    model = build(memory_tokens=2, memory_recurrence=2)
    tokens = words(2, 24)
    model.train()
    features(model, tokens[:, :8], segment=4, position=0)
    undisturbed = features(model, tokens[:, 8:16], segment=4, position=8)
    features(model, tokens[:, :8], segment=4, position=0)
    model.eval()
    features(model, words(3, 8, seed=1), segment=2, position=0)
    model.train()
    torch.testing.assert_close(
        features(model, tokens[:, 8:16], segment=4, position=8), undisturbed, **EXACT
    )


def test_position_0_begins_afresh(caplog):
    model = build(memory_tokens=2, memory_recurrence=2)
    tokens = words(2, 8)
    with caplog.at_level(logging.WARNING):
        first = features(model, tokens, segment=4, position=0)
        model(words(2, 8, seed=5), segment=4, position=8)
        again = features(model, tokens, segment=4, position=0)
        assert not caplog.messages
        torch.testing.assert_close(again, first, **EXACT)
        # a place that nobody has read up to: empty, and one line
        torch.testing.assert_close(features(model, tokens, segment=4, position=800), first, **EXACT)
        assert len(caplog.messages) == 1 and "800 words" in caplog.messages[0]


def test_a_state_of_another_cache_length_and_without_recurrence():
    """As when training resumes with other options: what does not fit is left behind."""
    tokens = words(2, 8)
    longer = build(memory_tokens=2, memory_recurrence=2, cache_length=5)
    features(longer, tokens, segment=4, position=0)
    for length in (0, 3):
        shorter = build(memory_tokens=2, cache_length=length)
        shorter.load_state_dict(longer.state_dict())
        shorter.decoder.streams = longer.decoder.streams
        state = shorter.decoder._state(2, 8)
        assert state.memory is None
        assert [t.size(1) for t in state.cache] == [length] * (2 if length else 0)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_state_of_another_number_of_slots(slots):
    """As when training resumes with other --memory-tokens: the cache stays, memory begins anew."""
    other, model = (build(memory_tokens=n, memory_recurrence=2) for n in (2, slots))
    features(other, words(2, 8), segment=4, position=0)
    model.decoder.streams = other.decoder.streams
    features(model, words(2, 8), segment=4, position=8)
    state = model.decoder.streams[False]
    assert state.memory.shape == (2, slots, 16) and state.cache[0].shape[:2] == (2, 5)


def test_nothing_that_is_kept_has_a_gradient():
    model = build(memory_tokens=2, memory_recurrence=2).train()
    model(words(2, 8), segment=4, position=0)
    state = model.decoder.streams[True]
    assert len(state.tensors()) == 3
    assert not any(tensor.requires_grad for tensor in state.tensors())
    assert [t.shape for t in state.tensors()] == [(2, 5, 16), (2, 5, 16), (2, 2, 16)]


def test_saved_and_loaded_with_fewer_slots():
    model = build(memory_tokens=3)
    same, fewer, none = build(memory_tokens=3, seed=2), build(memory_tokens=2), build()
    tokens = words(2, 9)
    for other in (same, fewer, none):
        other.load_state_dict(model.state_dict())
    expected = features(model, tokens, segment=4)
    torch.testing.assert_close(features(same, tokens, segment=4), expected, rtol=0, atol=0)
    assert torch.equal(fewer.decoder.memory.weight, model.decoder.memory.weight[:2])
    assert none.decoder.memory is None
    with pytest.raises(UserError, match="has 2 memory tokens"):
        build(memory_tokens=3).load_state_dict(fewer.state_dict())


def test_memory_states_are_those_behind_each_segment():
    model = build(memory_tokens=3, memory_recurrence=2)
    states = model.memory_states(words(2, 8), segment=4)
    assert states.shape == (2, 2, 3, 16)
    model(words(2, 8), segment=4, position=0)
    torch.testing.assert_close(model.decoder.streams[False].memory, states[-1], **EXACT)
    with pytest.raises(UserError, match="writes no memory"):
        build(memory_tokens=3).memory_states(words(2, 8), segment=4)


def test_bfloat16_in_evaluation(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    options = dict(memory_tokens=3, memory_recurrence=2, double=False)
    exact, rough = build(**options), build(**options, memory_bf16=True)
    rough.prepare_for_inference_(SimpleNamespace(generation=SimpleNamespace()))
    tokens = words(2, 16)
    for position in (0, 8):
        one, other = (
            model(tokens[:, position : position + 8], segment=4, position=position)[0]
            for model in (exact, rough)
        )
        assert other.dtype == torch.bfloat16
        torch.testing.assert_close(other.float(), one, rtol=0, atol=0.1)


def test_mixed_precision_with_adaptive_input_and_softmax():
    """--amp, in which fairseq's adaptive input would mix two types."""
    model = build(
        memory_tokens=2, memory_recurrence=2, adaptive_softmax_cutoff="5,9", double=False
    ).train()  # fmt: skip
    tokens = words(2, 16)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            read = model(tokens, segment=4)[0]
            logits, _ = model.decoder.adaptive_softmax(read.flatten(0, 1), tokens.flatten())
        losses.append(logits[0].float().logsumexp(1).mean())
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_fused_criterion_gives_the_plain_loss():
    model = build(memory_tokens=2)
    tokens = words(2, 9)
    sample = {"net_input": {"src_tokens": tokens[:, :-1], "segment": 4},
              "target": tokens[:, 1:].contiguous(), "ntokens": 16}  # fmt: skip
    task = SimpleNamespace(target_dictionary=dictionary())
    loss, size, _ = LabelSmoothedCrossEntropyCriterion(task, False, 0.0)(model, sample)
    logits = model(**sample["net_input"])[0]
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), sample["target"].flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, plain, **EXACT)
    assert size == 16


# ------------------------------------------------------------ streams


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


@pytest.mark.parametrize("total", [1, 7, 24, 25, 26, 27])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_word_is_predicted_once_from_the_one_before(total, workers):
    batch, seen = 2, []
    parts = [
        StreamBatches(text(total), Rows(batch, workers, n), 4, 2, pad=1) for n in range(workers)
    ]
    assert len({len(part) for part in parts}) == 1
    for part in parts:
        rows: list[list[int]] = [[] for _ in range(batch)]
        for number in range(len(part)):
            sample = part[number]
            tokens, target = sample["net_input"]["src_tokens"], sample["target"]
            assert sample["net_input"]["position"] == 4 * number
            assert tokens.shape == target.shape and tokens.size(1) <= 4
            assert sample["ntokens"] == target.ne(1).sum()
            for row in range(batch):
                for before, word in zip(tokens[row].tolist(), target[row].tolist(), strict=True):
                    if word == 1:
                        assert before == 1
                        continue
                    assert before == (2 if word == 10 else word - 1)
                    rows[row].append(word)
        for row in rows:  # contiguous
            assert row == list(range(row[0], row[0] + len(row))) if row else True
            seen += row
    assert seen == list(range(10, 10 + total))


def test_padding_at_the_end_of_a_row_changes_nothing():
    model = build(memory_tokens=2, memory_recurrence=2)
    batches = StreamBatches(text_of(words(1, 17)[0]), Rows(2), 4, 2, pad=dictionary().pad())
    assert batches.spans == [(0, 8), (8, 17)]
    together = [[], []]
    for number in range(len(batches)):
        sample = batches[number]
        logits = model(**sample["net_input"])[0]
        for row in range(2):
            together[row].append(logits[row][sample["target"][row].ne(1)])
    for row, (start, stop) in enumerate(batches.spans):
        alone = batches.stream.read(start - 1, stop)[None, :-1]
        torch.testing.assert_close(torch.cat(together[row]), model(alone, segment=2)[0][0], **EXACT)


def text_of(tokens: torch.Tensor) -> TokenStream:
    return TokenStream("test", Sentences(tokens.split(3)), first=dictionary().eos())


@pytest.mark.parametrize("total, rows, segment, cache, said", [
    (0, Rows(1), 4, 4, "'train' is empty"),
    (30, Rows(4, 2), 4, 0, "30 tokens, 3 for each of 8 rows .* segment of 4; give"),
    (30, Rows(4), 4, 9, "7 for each of 4 rows .* cache of 9"),
    (3, Rows(1), 4, 9, None),
    (32, Rows(4, 2), 4, 4, None),
])  # fmt: skip
def test_a_text_too_short_for_its_rows_is_refused(total, rows, segment, cache, said):
    if said is None:
        check_length(text(total), rows, segment, cache)
        return
    with pytest.raises(UserError, match=said):
        check_length(text(total), rows, segment, cache)


def test_a_state_is_for_the_rows_that_it_was_saved_from(tmp_path):
    """Training resumes with another number of workers, or on another text: its rows are others."""
    task = a_task(tmp_path)
    saved = StreamState(8, [torch.zeros(2, 5, 16)])

    def iterator(length, workers):
        return task.get_batch_iterator(text(length), max_sentences=2, num_shards=workers)

    reading = iterator(100, 2)
    batches = reading.next_epoch_itr()
    next(batches), next(batches)
    iterator(30, 1)  # of a validation
    task.place.streams = {True: saved}
    state = reading.state_dict()
    for length, workers, kept in ((100, 2, True), (100, 1, False), (101, 2, False)):
        iterator(length, workers).load_state_dict(state)
        assert (True in task.place.streams) == kept


@pytest.mark.parametrize("rows, workers, segment, batches, there", [
    (8, 1, 4, 63, 40), (16, 1, 4, 32, 20), (8, 2, 4, 32, 20), (8, 1, 8, 32, 20),
    (4, 1, 4, 125, 79), (500, 1, 4, 1, 0),
])  # fmt: skip
def test_resuming_with_other_rows_goes_on_at_the_same_part_of_the_epoch(
    tmp_path, rows, workers, segment, batches, there
):
    """Saved when 40 of 63 batches had been read."""

    def iterator(rows, workers, segment):
        task = a_task(tmp_path, tokens_per_sample=segment)
        task.place.streams = {}
        return task.get_batch_iterator(text(2000), max_sentences=rows, num_shards=workers)

    reading = iterator(8, 1, 4)
    batch = reading.next_epoch_itr()
    for _ in range(40):
        next(batch)
    assert len(reading) == 63
    resumed = iterator(rows, workers, segment)
    resumed.load_state_dict(reading.state_dict())
    assert len(resumed) == batches
    assert resumed.next_epoch_itr().n == there


@pytest.mark.parametrize("kind", ["mmap", "cached", "lazy"])
def test_every_format_of_binarised_data_is_read(tmp_path, kind):
    task, sentences = a_task(tmp_path), text(30).sentences
    for split in ("train", "train1"):  # two, which --combine-valid-subsets and the like join
        builder = make_builder(str(tmp_path / f"{split}.bin"), kind, vocab_size=len(dictionary()))
        for sentence in sentences:
            builder.add_item(sentence)
        builder.finalize(str(tmp_path / f"{split}.idx"))
    for combine in (False, True):
        task.load_dataset("train", combine=combine)
        expected = torch.arange(10, 40).repeat(2 if combine else 1)
        assert torch.equal(task.datasets["train"].read(0, len(expected)), expected)


class Overflowing(AMPOptimizer):
    """Stands in for --amp, which needs a GPU."""

    def __init__(self):
        pass

    def backward(self, loss):
        loss.backward()


def test_an_update_that_amp_repeats_reads_what_it_read_before(tmp_path, caplog):
    """Updates of two batches; the second overflows twice and is given up, the third once."""
    model = build(memory_tokens=2, memory_recurrence=2).train()
    task = a_task(tmp_path)
    task.place.streams = model.decoder.streams
    tokens = words(2, 48)

    def criterion(model, sample):
        return model(**sample["net_input"])[0].pow(2).sum(), 1, {}

    def update(number) -> list[float]:
        model.zero_grad()  # as the trainer does
        found = []
        for position in (16 * number, 16 * number + 8):
            part = tokens[:, position : position + 8]
            sample = {"net_input": {"src_tokens": part, "segment": 4, "position": position}}
            loss = task.train_step(sample, model, criterion, Overflowing(), 0)[0]
            found.append(loss.item())
        return found

    with torch.no_grad():
        logits = model(tokens, segment=4)[0].split(16, dim=1)
    for number in (0, 0, 1, 1, 1, 2, 2):
        expected = [part.pow(2).sum().item() for part in logits[number].split(8, dim=1)]
        assert update(number) == pytest.approx(expected, abs=1e-9)
    assert "nothing is known" not in caplog.text


# ------------------------------------------------------------ bad options


@pytest.mark.parametrize("options, said", [
    (dict(cache_length=-1), "cache_length is -1; give a whole number of 0 or more; 0 switches"),
    (dict(cache_length="no"), "cache_length is 'no'"),
    (dict(tokens_per_sample=0), "tokens_per_sample is 0"),
    (dict(memory_recurrence=-2), "memory_recurrence is -2"),
    (dict(memory_tokens=9999), "memory_tokens is 9999; give a whole number from 0 to 4096"),
    (dict(decoder_attention_heads=3), "decoder_embed_dim 16 is no multiple of 3"),
    (dict(memory_lesion="all"), "memory_lesion is 'all'"),
    (dict(memory_init_std=0.0), "memory_init_std is 0.0"),
    (dict(memory_only=True), "there is none; give --memory-tokens"),
    (dict(memory_only=True, memory_tokens=2, memory_recurrence=2), "leave one of the two out"),
    (dict(adaptive_softmax_factor=0.0), "adaptive_softmax_factor is 0.0"),
    (dict(adaptive_softmax_factor=5.0, adaptive_softmax_cutoff="6,12"), "factor 5 leaves the last "
     "of 3 bands no width (16 / 5^2 is below 1); give a smaller factor"),
    (dict(adaptive_softmax_factor=1e200, adaptive_softmax_cutoff="6,12"), "leaves the last of 3"),
    (dict(adaptive_softmax_cutoff="1,12"), "makes a band of 1 words (0 to 1), and fairseq needs 2"),
    (dict(adaptive_softmax_cutoff="6,7"), "makes a band of 1 words (6 to 7)"),
    (dict(adaptive_softmax_cutoff="9,5"), "adaptive_softmax_cutoff is '9,5'"),
    (dict(adaptive_softmax_cutoff="a"), "adaptive_softmax_cutoff is 'a'"),
])  # fmt: skip
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError) as error:
        build(**options)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cutoff, used", [
    ("6,22", [6, 22, 24]), ("6,23", [6, 24]), ("6,24", [6, 24]), ("6,99", [6, 24]), ("23", None),
])  # fmt: skip
def test_cut_offs_close_to_the_size_of_the_dictionary(cutoff, used):
    """Too close to leave a band of its own: a band of one word ended in an IndexError."""
    model = build(adaptive_softmax_cutoff=cutoff, adaptive_softmax_factor=4.0)
    softmax = model.decoder.adaptive_softmax
    assert (softmax and softmax.cutoff) == used
    assert model(words(2, 5))[0].isfinite().all()


def a_task(folder, **options) -> StreamingLanguageModelingTask:
    dictionary().save(str(folder / "dict.txt"))
    options = {"data": str(folder), "tokens_per_sample": 4, "batch_size": 2, **options}
    return StreamingLanguageModelingTask(SimpleNamespace(**options))


def test_tasks_that_make_no_sense(tmp_path):
    for options, said in (
        (dict(self_target=True), "--self-target asks for words that a causal model"),
        (dict(past_target=True), "--past-target"),
        (dict(tokens_per_sample=-3), "tokens_per_sample is -3"),
        (dict(data=str(tmp_path / "nowhere")), "dict.txt does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            a_task(tmp_path, **options)
    model = SimpleNamespace(memory_tokens=0, memory_recurrence=2)
    with pytest.raises(UserError, match="nothing to hand on with 0 memory tokens"):
        a_task(tmp_path).build_model(model)
    with pytest.raises(UserError, match="needs --batch-size"):
        a_task(tmp_path, batch_size=None).build_model(model)
    with pytest.raises(UserError, match="is for mem_transformer_xl"):
        a_task(tmp_path).build_model(SimpleNamespace())
    with pytest.raises(UserError, match="'cache_length': 128"):
        a_task(tmp_path).eval_lm_dataloader(text(9), context_window=128)
    with pytest.raises(UserError, match="fairseq-eval-lm"):
        a_task(tmp_path).build_generator([], None)
    with pytest.raises(UserError, match="no split 'test'"):
        a_task(tmp_path).load_dataset("test")


def test_recurrence_over_one_segment_is_warned_of_before_training(tmp_path, caplog):
    task = a_task(tmp_path)
    for recurrence, lines in ((1, 1), (2, 0)):
        caplog.clear()
        chosen = dict(memory_tokens=2, memory_recurrence=recurrence, **SMALL)
        task.build_model(SimpleNamespace(_name="mem_transformer_xl", **chosen))
        assert len([line for line in caplog.messages if "writing is not trained" in line]) == lines


def test_a_task_that_shuffles_is_refused():
    from fairseq.models import ARCH_MODEL_REGISTRY

    shuffles = SimpleNamespace(source_dictionary=dictionary())
    with pytest.raises(UserError, match="give --task streaming_language_modeling"):
        ARCH_MODEL_REGISTRY["mem_transformer_xl"].build_model(SimpleNamespace(), shuffles)
    check_arguments(["--arch", "mem_transformer_xl", "--memory-tokens", "0"])


# ------------------------------------------------------------ fairseq's commands

TINY = [
    "--decoder-layers", "2", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "24",
    "--decoder-attention-heads", "2", "--adaptive-softmax-cutoff", "", "--cpu",
    "--task", "streaming_language_modeling", "--tokens-per-sample", "8", "--cache-length", "12",
    "--batch-size", "4", "--optimizer", "adam", "--lr", "0.005", "--seed", "1",
    "--num-workers", "0", "--log-format", "json", "--log-interval", "1",
]  # fmt: skip
RECURRENT = ["--memory-tokens", "3", "--memory-recurrence", "2"]


@pytest.fixture(scope="session")
def streams(tmp_path_factory):
    """Binarised text."""
    folder = tmp_path_factory.mktemp("streams")
    numbers = random.Random(0)
    for split, lines in (("train", 150), ("valid", 30), ("test", 30)):
        rows = [
            " ".join(str(numbers.randrange(9)) for _ in range(numbers.randrange(1, 8)))
            for _ in range(lines)
        ]
        (folder / split).write_text("\n".join(rows) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "--only-source", "--trainpref", folder / "train", "--validpref",
        folder / "valid", "--testpref", folder / "test", "--destdir", folder / "bin",
    )  # fmt: skip
    return folder / "bin"


def train(data, save_dir, *arguments, criterion="cross_entropy", **kwargs):
    return fairseq(
        "train", data, "--arch", "mem_transformer_xl", *TINY, "--criterion", criterion,
        "--save-dir", save_dir, *arguments, **kwargs,
    )  # fmt: skip


def losses(done) -> dict[int, str]:
    """The training loss of every update, as logged."""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "train_inner" in line]
    found = [re.search(r'"loss": "([\d.]+)".*"num_updates": "(\d+)"', line) for line in lines]
    return {int(match[2]): match[1] for match in found}


@pytest.fixture(scope="session")
def model(streams, tmp_path_factory):
    """Ten updates of an epoch, saved (and validated) at 5; and the log."""
    folder = tmp_path_factory.mktemp("xl")
    done = train(streams, folder, *RECURRENT, "--max-update", "10", "--save-interval-updates", "5",
                 "--dropout", "0.2")  # fmt: skip
    return folder, done


@pytest.mark.cli
def test_resuming_in_the_middle_of_an_epoch_gives_identical_losses(streams, model, tmp_path):
    folder, uninterrupted = model
    done = train(
        streams, tmp_path, *RECURRENT, "--max-update", "10", "--save-interval-updates", "5",
        "--dropout", "0.2", "--restore-file", folder / "checkpoint_1_5.pt",
    )  # fmt: skip
    assert "nothing is known" not in done.stdout + done.stderr
    resumed, whole = losses(done), losses(uninterrupted)
    assert resumed.keys() == set(range(6, 11)) and whole.keys() == set(range(1, 11))
    assert resumed == {number: whole[number] for number in resumed}
    first, second = (torch.load(f / "checkpoint_last.pt")["model"] for f in (folder, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.cli
def test_resuming_with_several_batches_an_update(streams, tmp_path):
    """--update-freq 2: the state that is saved stands behind an update's last batch."""
    options = [
        *RECURRENT, "--update-freq", "2", "--batch-size", "2", "--batch-size-valid", "2",
        "--max-update", "5", "--save-interval-updates", "3",
    ]  # fmt: skip
    whole = losses(train(streams, tmp_path / "a", *options))
    done = train(
        streams, tmp_path / "b", *options, "--restore-file", tmp_path / "a/checkpoint_1_3.pt"
    )
    assert "nothing is known" not in done.stdout + done.stderr
    assert losses(done) == {number: whole[number] for number in (4, 5)}


def expected_loss(data, checkpoint, segment: int, **overrides) -> float:
    """Base-2 loss of the test text read as one row, in float32, from the Python side."""
    from fairseq.data import data_utils

    saved = torch.load(checkpoint)
    made = Dictionary.load(str(data / "dict.txt"))
    args = saved["cfg"]["model"]
    for name, value in overrides.items():
        setattr(args, name, value)
    from fairseq.models import ARCH_MODEL_REGISTRY

    task = SimpleNamespace(source_dictionary=made, gives_streams=True)
    read = ARCH_MODEL_REGISTRY["mem_transformer_xl"].build_model(args, task).eval()
    read.load_state_dict(saved["model"])
    sentences = data_utils.load_indexed_dataset(str(data / "test"), made)
    whole = torch.cat([sentence.long() for sentence in sentences])
    before = torch.cat([torch.tensor([made.eos()]), whole[:-1]])
    with torch.no_grad():
        logits = read(before[None], segment=segment)[0][0]
    return float(torch.nn.functional.cross_entropy(logits, whole)) / math.log(2)


def evaluated(done) -> float:
    return float(re.search(r"Loss \(base 2\): ([\d.]+)", done.stdout + done.stderr)[1])


EVALUATE = ["--task", "streaming_language_modeling", "--cpu"]


def eval_lm(data, checkpoint, *arguments) -> float:
    """``fairseq-eval-lm`` in this process; the base-2 loss, not rounded."""
    from fairseq_cli.eval_lm import main

    words = [data, "--path", checkpoint, *EVALUATE, "--gen-subset", "test", *arguments]
    parser = fairseq_options.get_eval_lm_parser()
    args = fairseq_options.parse_args_and_arch(parser, input_args=list(map(str, words)))
    return float(main(convert_namespace_to_omegaconf(args))["loss"])


@pytest.mark.cli
def test_eval_lm_in_a_fresh_process_with_the_options_of_training(streams, model):
    checkpoint = model[0] / "checkpoint_last.pt"
    done = fairseq("eval-lm", streams, "--path", checkpoint, *EVALUATE, "--gen-subset", "test")
    assert evaluated(done) == pytest.approx(expected_loss(streams, checkpoint, 8), abs=2e-4)


@pytest.mark.cli
@pytest.mark.parametrize("segment, overrides", [
    (5, dict(cache_length=20)), (None, dict(tokens_per_sample=3, cache_length=0, memory_tokens=1)),
])  # fmt: skip
def test_eval_lm_with_another_segment_and_cache(streams, model, segment, overrides):
    checkpoint = model[0] / "checkpoint_last.pt"
    chosen = ["--model-overrides", overrides]
    chosen += [] if segment is None else ["--tokens-per-sample", segment]
    expected = expected_loss(streams, checkpoint, segment or 3, **overrides)
    assert eval_lm(streams, checkpoint, *chosen) == pytest.approx(expected, abs=1e-5)
    if segment is None:
        return
    # rows beside each other begin without context: the same words, another loss
    rows = eval_lm(streams, checkpoint, *chosen, "--batch-size", "3")
    assert rows != expected and rows == pytest.approx(expected, abs=0.1)


@pytest.mark.cli
@pytest.mark.slow
def test_validate_reads_the_options_of_training(streams, model):
    checkpoint = model[0] / "checkpoint_last.pt"
    done = fairseq(
        "validate", streams, "--path", checkpoint, *EVALUATE, "--batch-size", "1",
        "--valid-subset", "test", "--log-format", "json",
        "--tokens-per-sample", "5", "--model-overrides", "{'cache_length': 20}",
    )  # fmt: skip
    loss = float(re.search(r'"test_loss": "([\d.]+)"', done.stdout + done.stderr)[1])
    assert loss == pytest.approx(expected_loss(streams, checkpoint, 5, cache_length=20), abs=2e-3)


@pytest.mark.cli
def test_a_bad_option_ends_in_one_clear_line(streams, tmp_path):
    done = train(streams, tmp_path, "--batch-size", "300", check=False)
    assert done.returncode == 1
    assert "tokens, 2 for each of 300 rows" in last_line(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.cli
def test_a_context_window_is_refused_in_one_line(tmp_path):
    """fairseq takes the window off --tokens-per-sample before it asks anybody."""
    done = fairseq(
        "eval-lm", tmp_path, "--path", tmp_path / "model.pt", *EVALUATE, "--context-window", "64",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "'cache_length': 64" in last_line(done)


@pytest.mark.cli
@pytest.mark.parametrize("arguments, said", [
    (["--batch-size-valid", "20"], "the split 'valid'"),
    (["--self-target"], "--self-target asks for words"),
    (["--memory-recurrence", "2", "--memory-tokens", "0"], "nothing to hand on"),
    (["--cache-length", "-1"], "cache_length is -1"),
    (["--task", "language_modeling"], "give --task streaming_language_modeling"),
    (["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"],
     "needs --adaptive-softmax-cutoff"),
    (["--adaptive-softmax-cutoff", "6"], "needs --criterion adaptive_loss"),
])  # fmt: skip
def test_bad_options(streams, tmp_path, monkeypatch, arguments, said):
    from fairseq_cli.train import cli_main

    words = ["fairseq-train", streams, "--arch", "mem_transformer_xl", *TINY, "--criterion",
             "cross_entropy", "--max-update", "1", "--save-dir", tmp_path, *arguments]  # fmt: skip
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    with pytest.raises(UserError) as error:
        cli_main()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.cli
@pytest.mark.slow
def test_two_workers_resume_with_their_own_rows(streams, tmp_path):
    """Each worker's cache is in the checkpoint, and goes back to that worker."""

    def both(folder, *arguments):
        return two_workers(
            train, streams, folder, *RECURRENT, "--max-update", "8",
            "--save-interval-updates", "4", "--batch-size", "3", *arguments,
        )  # fmt: skip

    first = both(tmp_path / "a")
    again = both(tmp_path / "b", "--restore-file", tmp_path / "a/checkpoint_1_4.pt")
    assert not any("nothing is known" in done.stdout + done.stderr for done in again)
    whole, resumed = losses(first[0]), losses(again[0])
    assert resumed and resumed == {number: whole[number] for number in resumed}
    state = torch.load(tmp_path / "a/checkpoint_1_4.pt")["extra_state"]["train_iterator"]
    assert [s["cache"][0].shape for s in state["streams"]] == [(3, 12, 16)] * 2
    assert not torch.equal(*(s["cache"][0] for s in state["streams"]))


@pytest.mark.cli
@pytest.mark.slow
def test_adaptive_softmax_over_two_epochs(streams, tmp_path):
    done = train(
        streams, tmp_path, "--memory-tokens", "2", "--adaptive-softmax-cutoff", "6,10",
        "--ddp-backend", "legacy_ddp", "--max-epoch", "2", criterion="adaptive_loss",
    )  # fmt: skip
    assert "nothing is known" not in done.stdout + done.stderr
    assert eval_lm(streams, tmp_path / "checkpoint_best.pt", "--batch-size", "2") < 5
