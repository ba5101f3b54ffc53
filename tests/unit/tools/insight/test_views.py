"""What is put together of recorded attention, by the slow reference too, and its averages."""

import math

import pytest
import torch
from helpers.random_models import EXACT, build, dictionary, sentences, shifted
from helpers.references.attention import attend

from fairseq_mem.attention.recording import recording
from fairseq_mem.tools.insight.averages import LayerSums, Mean
from fairseq_mem.tools.insight.operations import odds_ratio, operations
from fairseq_mem.tools.insight.views import (
    GROUPS,
    MARKS,
    MEMORY,
    PADDING,
    PUNCTUATION,
    STATIC,
    WORDS,
    groups_of,
    static_keys,
    views,
)

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = shifted(sentences([5, 7, 2], seed=2))
VARIANTS = {
    "shared": dict(memory_tokens=3, memory_decoder_tokens=2),
    "ctrl": dict(memory_tokens=3, memory_update="ctrl"),
    "ctrl-shared": dict(memory_tokens=3, memory_update="ctrl-shared"),
    "bottleneck": dict(memory_tokens=3, memory_update="bottleneck", memory_static=2),
    "controls": dict(memory_tokens=3, memory_static=2, attention_sink=True),
    "none": dict(memory_tokens=0),
}


def seen(model, source=SOURCE, target=TARGET):
    groups = groups_of(dictionary())
    with torch.no_grad(), recording(model) as maps:
        model(source, None, target)
    return views(maps, static_keys(model), groups[source], groups[target])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_layer_has_all_its_rows_and_columns(options):
    model = build(**options)
    found = seen(model)
    assert [(view.kind, view.layer) for view in found] == [
        (kind, layer) for kind in ("encoder", "cross", "decoder") for layer in (0, 1)
    ]
    m, own = options["memory_tokens"], options.get("memory_decoder_tokens", 0)
    static = options.get("memory_static", 0)
    for view in found:
        rows, columns = {"encoder": (m + 6, m + 6), "cross": (own + 7, m + 6),
                         "decoder": (own + 7, own + 7)}[view.kind]  # fmt: skip
        assert view.weights.shape == (2, 3, rows, columns + static)
        assert view.rows.shape == (3, rows) and view.columns.shape == (3, columns + static)
        assert (view.columns == STATIC).sum() == 3 * static
        sums = view.weights.double().sum(dim=3)
        padding = view.columns[:, None, :] == PADDING
        assert (view.weights.masked_select(padding) == 0).all()  # exactly
        if options.get("attention_sink"):
            assert (sums < 1).all() and (sums > 0).all()
        else:
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    bottleneck = options.get("memory_update") == "bottleneck"
    text = found[0].weights[:, :, m:, m : m + 6]
    assert (text == 0).all() == bottleneck


def test_they_are_the_loops():
    model = build(memory_tokens=3, memory_update="ctrl")
    inputs = {}
    layer = model.encoder.layers[1]
    for name, module in (("text", layer.self_attn), ("memory", layer.controller.self_attn)):
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: inputs.update({name: args[:2]}), with_kwargs=True
        )
    view = next(view for view in seen(model) if (view.kind, view.layer) == ("encoder", 1))
    pad = SOURCE.eq(1)

    def visible(b, t, s):
        return s < 3 or not pad[b, s - 3]

    memory = attend(layer.controller.self_attn, *inputs["memory"], visible)[1]
    text = attend(layer.self_attn, *inputs["text"], visible)[1]
    torch.testing.assert_close(view.weights, torch.cat([memory, text], dim=2), **EXACT)


def test_words_have_groups():
    made = dictionary(1)
    for word in ("...", "a@@", "»@@", "▁!", "7"):
        made.add_symbol(word)
    expected = [MARKS, PADDING, MARKS, WORDS, WORDS, PUNCTUATION, WORDS, PUNCTUATION, PUNCTUATION,
                WORDS]  # fmt: skip
    assert groups_of(made).tolist() == expected  # <s> <pad> </s> <unk> w0 ...


@pytest.mark.parametrize("options", [VARIANTS["shared"], VARIANTS["controls"]])
def test_averages_are_the_loops_whatever_the_batches(options):
    model = build(**options)
    whole = {view.kind: view for view in seen(model) if view.layer == 1}
    sums = {kind: LayerSums(2) for kind in whole}
    for row in range(3):  # one sentence after the other, without padding
        source, target = SOURCE[row : row + 1], TARGET[row : row + 1]
        alone = seen(model, source[source.ne(1)][None], target[target.ne(1)][None])
        for view in alone:
            if view.layer == 1:
                sums[view.kind].add(view)
    for kind, view in whole.items():
        batch = LayerSums(2)
        batch.add(view)
        for reader, groups in enumerate(([MEMORY], [WORDS, PUNCTUATION, MARKS])):
            if batch.rows[reader] == 0:
                continue
            for head in range(2):
                found, other = batch.mean(head, reader), sums[kind].mean(head, reader)
                expected = loops(view, head, groups)
                for mean in (found, other):
                    for name in GROUPS:
                        assert mean.mass[name] == pytest.approx(expected[0][name], abs=1e-6)
                        assert mean.uniform[name] == pytest.approx(expected[1][name], abs=1e-6)
                    assert mean.entropy == pytest.approx(expected[2], abs=1e-5)
                    assert mean.mass["sink"] == pytest.approx(expected[3], abs=1e-6)
        if batch.read is not None:
            torch.testing.assert_close(batch.read, sums[kind].read, rtol=0, atol=1e-6)


def loops(view, head, groups):
    """Row by row: shares, an even reader's, entropy, what no column gets."""
    shares, even = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0.0)
    entropy, sink, rows = 0.0, 0.0, 0
    for b in range(view.rows.size(0)):
        for q in range(view.rows.size(1)):
            if int(view.rows[b, q]) not in groups:
                continue
            rows += 1
            weights = view.weights[head, b, q].tolist()
            allowed = [k for k, weight in enumerate(weights) if weight > 0]
            for k in allowed:
                name = GROUPS[int(view.columns[b, k])]
                shares[name] += weights[k]
                even[name] += 1 / len(allowed)
                entropy -= weights[k] * math.log2(weights[k])
            sink += 1 - sum(weights)
    mean = [{name: value / rows for name, value in some.items()} for some in (shares, even)]
    return *mean, entropy / rows, sink / rows


# ------------------------------------------------------------ the names of what heads do


def mean_of(own=0.0, sink=0.0, **shares):
    """Memory, words and marks are a third each to an even reader."""
    even = dict.fromkeys(GROUPS, 0.0) | dict.fromkeys(("memory", "words", "marks"), 1 / 3)
    mass = dict.fromkeys(GROUPS, 0.0) | {"words": 1 - sum(shares.values()) - sink, **shares}
    return Mean({**mass, "sink": sink}, even, 1.0, 2.0, own, 5)


@pytest.mark.parametrize(
    "memory, text, names",
    [
        (mean_of(memory=1 / 3), mean_of(memory=1 / 3), []),
        (mean_of(memory=0.1), None, ["write"]),
        (mean_of(memory=0.6), None, ["process"]),
        (mean_of(memory=0.6, own=0.5), None, ["keep"]),
        (None, mean_of(memory=0.6), ["read"]),
        (None, mean_of(memory=0.1), ["ignore"]),
        (None, mean_of(memory=0.3, marks=0.6), ["rest on marks"]),
        (None, mean_of(memory=0.3, sink=0.6), ["sink"]),
    ],
)
def test_operations_are_named_by_the_rule(memory, text, names):
    assert operations(memory, text) == names


def test_without_a_choice_there_is_no_name():
    assert math.isnan(odds_ratio(1.0, 1.0)) and math.isnan(odds_ratio(0.0, 0.0))
    assert odds_ratio(1.0, 0.5) == math.inf and odds_ratio(0.5, 1 / 3) == pytest.approx(2)
