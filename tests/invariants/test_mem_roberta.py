"""``mem_roberta``: the invariants in float64."""

import copy

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import RobertaEncoder
from fairseq.models.transformer import TransformerEncoder
from helpers.random_models import EXACT, build, dictionary, sentences
from helpers.references.sentence_encoder import encoded, memory_head

from fairseq_mem import MemRobertaModel, UserError
from fairseq_mem.updates import UPDATES

M = 3
SIZE = dict(
    encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=2,
    dropout=0.0, attention_dropout=0.0, max_positions=20,
)  # fmt: skip
HEAD = "sentence_classification_head"
VARIANTS = {
    **{update: dict(memory_update=update) for update in sorted(UPDATES)},
    **{
        f"{update}, head on memory": dict(memory_update=update, memory_head="memory")
        for update in sorted(UPDATES)
    },
    "pre-norm": dict(encoder_normalize_before=True, layernorm_embedding=False),
    "positions": dict(memory_positions=True),
    "segments": dict(memory_segments=2, memory_norm_epsilon=1e-12),
    "unread": dict(memory_unread=True, memory_head="memory"),
    "controls": dict(attention_sink=True, memory_static=2),
    "controls ctrl": dict(attention_sink=True, memory_static=2, memory_update="ctrl"),
    "unread ctrl": dict(memory_unread=True, memory_head="memory", memory_update="ctrl"),
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def texts(lengths=(6, 3, 8)):
    """Random sentences between <s> and </s>, padded on the right; B x T. The last is a pair."""
    tokens = sentences(list(lengths), seed=3)
    tokens[:, 0] = dictionary().bos()
    tokens[-1, lengths[-1] // 2] = dictionary().eos()
    return tokens


TEXT = texts()


def make(tokens=M, arch="mem_roberta", classes=4, **options):
    model = build(arch, memory_tokens=tokens, **{**SIZE, **options})
    if classes:
        model.register_classification_head(HEAD, num_classes=classes)
    return model.double().eval()


def classes_of(model, tokens=TEXT):
    return model(tokens, classification_head_name=HEAD)[0]


# 1. Without memory this is fairseq's model


@pytest.mark.parametrize("options", [{}, dict(encoder_normalize_before=True)])
def test_zero_tokens_is_fairseqs_model_bit_for_bit(options):
    """Same keys, same losses and the same weights after two updates with dropout."""
    results = []
    for arch in ("mem_roberta", "roberta"):
        memory = dict(memory_tokens=0) if arch == "mem_roberta" else {}
        sizes = {**SIZE, "dropout": 0.3, "attention_dropout": 0.2, **options}
        model = build(arch, double=False, **memory, **sizes)
        torch.manual_seed(5)
        model.register_classification_head(HEAD, num_classes=4)
        assert type(model.encoder.sentence_encoder) is TransformerEncoder
        optimizer = torch.optim.Adam(model.train().parameters(), lr=0.01)
        losses = []
        for _ in range(3):
            masked = TEXT.eq(7) | TEXT.eq(8)
            loss = model(TEXT, masked_tokens=masked)[0].logsumexp(-1).sum()
            loss = loss + classes_of(model).logsumexp(-1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        results.append((losses, model.state_dict()))
    (ours, our_state), (theirs, their_state) = results
    assert ours == theirs
    assert our_state.keys() == their_state.keys()
    assert all(torch.equal(our_state[key], their_state[key]) for key in our_state)


@pytest.mark.parametrize(
    ("size", "layers", "width"),
    [("", 12, 768), ("_base", 12, 768), ("_large", 24, 1024), ("_small", 4, 128)],
)
def test_the_sizes(size, layers, width):
    from argparse import Namespace

    args = Namespace()
    ARCH_CONFIG_REGISTRY[f"mem_roberta{size}"](args)
    assert (args.encoder_layers, args.encoder_embed_dim, args.memory_tokens) == (layers, width, 20)
    stock = Namespace()
    ARCH_CONFIG_REGISTRY["roberta_large" if size == "_large" else "roberta_base"](stock)
    if size != "_small":
        assert vars(stock).items() <= vars(args).items()


@pytest.mark.parametrize("update", sorted(UPDATES))
@pytest.mark.parametrize("head", ["start", "memory"])
def test_the_new_parameters_are_exactly_these(update, head):
    stock = set(make(0).state_dict())
    model = make(memory_update=update, memory_head=head)
    place = "encoder.sentence_encoder"
    new = {f"{place}.memory.weight"}
    one = {key.removeprefix(f"{place}.layers.0.") for key in stock if f"{place}.layers.0." in key}
    if update == "ctrl-shared":
        new |= {f"{place}.controller.{key}" for key in one}
    elif update != "shared":
        # where nobody reads the last layer's memory, nothing updates it; the bottleneck's text does
        last = 1 if update == "ctrl" and head == "start" else 2
        new |= {f"{place}.layers.{n}.controller.{key}" for n in range(last) for key in one}
    assert set(model.state_dict()) - stock == new
    wide = model.classification_heads[HEAD].dense.weight.size(1)
    assert wide == (32 if head == "memory" else 16)


def test_one_layer_with_a_shared_controller_needs_none():
    model = make(memory_update="ctrl-shared", encoder_layers=1)
    assert not [key for key in model.state_dict() if "controller" in key]
    assert classes_of(model).shape == (3, 4)


# 2. Padding


@every_variant
def test_padding_changes_nothing(options):
    model = make(**options)
    together, words = classes_of(model), model(TEXT)[0]
    for row, tokens in enumerate(TEXT):
        alone = tokens[tokens.ne(1)][None]
        torch.testing.assert_close(classes_of(model, alone)[0], together[row], **EXACT)
        torch.testing.assert_close(model(alone)[0][0], words[row, : alone.size(1)], **EXACT)


# 5. The bottleneck


def test_tokens_of_the_bottleneck_meet_in_memory_alone():
    """With memory hidden by a lesion a token's features depend on no other token."""
    model = make(memory_update="bottleneck", memory_lesion="no-read", encoder_layers=1)
    other = TEXT.clone()
    other[0, 2] = TEXT[0, 2] % 19 + 4
    assert other[0, 2] != TEXT[0, 2]
    before, after = (model(tokens, features_only=True)[0][0] for tokens in (TEXT, other))
    same = torch.arange(8) != 2
    torch.testing.assert_close(before[same], after[same], **EXACT)
    whole = make(memory_update="bottleneck", encoder_layers=1)
    before, after = (whole(tokens, features_only=True)[0][0] for tokens in (TEXT, other))
    assert (before[0] - after[0]).abs().max() > 1e-6


# 6. Equations, gradients, half precision


@every_variant
def test_equals_the_equations_position_by_position(options):
    model = make(**options, activation_fn="relu")
    update = options.get("memory_update", "shared")
    x = encoded(
        model.encoder.sentence_encoder, TEXT, update, options.get("memory_head") == "memory",
        options.get("memory_unread", False),
    )  # fmt: skip
    features, extra = model(TEXT, features_only=True)
    real = TEXT.ne(1)
    torch.testing.assert_close(features[real], x[M:].transpose(0, 1)[real], **EXACT)
    torch.testing.assert_close(extra["memory"], x[:M].transpose(0, 1), **EXACT)
    if options.get("memory_head") == "memory":
        expected = memory_head(model.classification_heads[HEAD], x[:M])
        torch.testing.assert_close(classes_of(model), expected, **EXACT)


@every_variant
def test_every_parameter_gets_a_gradient(options):
    model = make(**options).train()
    loss = classes_of(model).logsumexp(-1).sum() + model(TEXT)[0].logsumexp(-1).sum()
    loss.backward()
    assert not [name for name, one in model.named_parameters() if one.grad is None]


def test_the_memory_heads_gradients_are_right():
    head = make(memory_head="memory").classification_heads[HEAD]
    memory = torch.randn(2, M, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: head(x[:, :1], memory=x), memory)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_empty_rows_stay_finite(options, dtype):
    model = make(**options).to(dtype)
    tokens = torch.cat([TEXT, torch.ones_like(TEXT[:1])])  # a row of padding
    for out in (classes_of(model, tokens), model(tokens)[0]):
        assert out.isfinite().all()


# What is read, and by whom


def test_features_begin_with_the_start_symbol_and_have_no_slots():
    model = make()
    features, extra = model(TEXT, features_only=True, return_all_hiddens=True)
    assert features.shape == (3, 8, 16) and extra["memory"].shape == (3, M, 16)
    assert [tuple(state.shape) for state in extra["inner_states"]] == [(8, 3, 16)] * 3
    torch.testing.assert_close(extra["inner_states"][-1].transpose(0, 1), features)
    out = model(TEXT, masked_tokens=TEXT.eq(dictionary().eos()))[0]
    assert out.shape == (4, len(dictionary()))
    with_all = model(TEXT)[0]
    torch.testing.assert_close(out, with_all[TEXT.eq(dictionary().eos())], **EXACT)


@pytest.mark.parametrize("update", ["shared", "ctrl", "ctrl-shared"])
def test_text_that_may_not_read_memory_is_that_without_memory(update):
    model = make(memory_head="memory", memory_unread=True, memory_update=update)
    bare = make(0, classes=0)
    kept = {key: value for key, value in model.state_dict().items() if key in bare.state_dict()}
    bare.load_state_dict(kept)
    features = [one(TEXT, features_only=True)[0] for one in (model, bare)]
    real = TEXT.ne(1)
    torch.testing.assert_close(features[0][real], features[1][real], **EXACT)
    lesion = make(memory_lesion="no-read", memory_update=update)
    lesion.load_state_dict({**lesion.state_dict(), **kept})
    torch.testing.assert_close(
        lesion(TEXT, features_only=True)[0][real], features[1][real], **EXACT
    )


def test_positions_are_the_authors():
    """<s> first, memory behind it, then the text; only then does the text move."""
    model = make(memory_positions=True)
    encoder = model.encoder.sentence_encoder
    codes = encoder._codes(TEXT[2:])[0]
    table = encoder.embed_positions.weight[2:]
    order = [*range(1, M + 1), 0, *range(M + 1, M + 8)]
    torch.testing.assert_close(codes, table[order], **EXACT)
    assert model.max_positions() == 20 - M and make().max_positions() == 20


# 7, 8. Checkpoints


def trained_state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@every_variant
def test_a_stock_checkpoint_loads_and_memory_has_the_scale_of_its_text(options):
    stock = build("roberta", **SIZE, **{k: v for k, v in options.items() if "memory" not in k})
    with torch.no_grad():
        for name, one in stock.named_parameters():
            if "layernorm_embedding" in name:
                one.mul_(0.3)
    model = make(**options)
    slots = M
    model.load_state_dict(trained_state(stock), strict=True)
    encoder = model.encoder.sentence_encoder
    text = encoder.forward_embedding(torch.randint(4, 24, (200, 12)))[0]
    if encoder.layernorm_embedding is not None:
        assert encoder.memory.std == pytest.approx(float(text.detach().std()), rel=0.1)
    assert float(encoder.memory.weight.detach().std()) == pytest.approx(encoder.memory.std, rel=0.5)
    assert len(encoder.memory.weight.unique(dim=0)) == slots


def test_given_scale_is_kept():
    model = make(memory_init_std=0.5)
    before = model.encoder.sentence_encoder.memory.weight.clone()
    model.load_state_dict(trained_state(build("roberta", **SIZE)))
    assert torch.equal(model.encoder.sentence_encoder.memory.weight, before)


def test_a_checkpoint_loads_as_it_was_saved_and_with_fewer_slots():
    model = make(memory_positions=True)
    again = make(memory_positions=True, seed=7)
    again.load_state_dict(trained_state(model))
    assert torch.equal(classes_of(again), classes_of(model))
    fewer = make(2, memory_positions=True)
    fewer.load_state_dict(trained_state(model))
    assert fewer.encoder.sentence_encoder.memory.text_offset == M
    with pytest.raises(UserError, match="--memory-grow"):
        make(5).load_state_dict(trained_state(model))


def test_a_controller_that_is_read_again_begins_as_the_layers_own(caplog):
    """From pre-training, where nobody reads the last memory, to a head that does, and back."""
    pretrained = make(memory_update="ctrl", classes=0)
    model = make(memory_update="ctrl", memory_head="memory")
    model.load_state_dict(trained_state(pretrained))
    last = model.encoder.sentence_encoder.layers[-1]
    assert torch.equal(last.controller.fc1.weight, last.fc1.weight)
    caplog.clear()
    back = make(memory_update="ctrl", classes=0)
    back.load_state_dict(trained_state(model))
    assert "controller" not in caplog.text
    assert set(back.state_dict()) == set(pretrained.state_dict())


def test_heads_of_another_kind_are_left_out_and_fresh_ones_are_kept(caplog):
    model = make(memory_head="memory")
    before = trained_state(model.classification_heads)
    model.load_state_dict(trained_state(make()))
    assert "reads something else" in caplog.text
    after = model.classification_heads.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_heads_for_words_come_and_go(caplog):
    with_head = make(classes=0)
    without = make(classes=0, memory_no_word_head=True)
    without.load_state_dict(trained_state(with_head))
    with pytest.raises(UserError, match="no head that predicts masked words"):
        without(TEXT)
    again = make(classes=0)
    again.load_state_dict(trained_state(without))
    assert "it is fresh" in caplog.text
    tied = again.encoder.lm_head.weight
    assert torch.equal(tied, again.encoder.sentence_encoder.embed_tokens.weight)


def test_the_pooler_begins_new_heads_alone():
    state = {**trained_state(make(classes=0)), "pooler.dense.weight": torch.ones(16, 16),
             "pooler.dense.bias": torch.ones(16)}  # fmt: skip
    model = make()
    model.load_state_dict(dict(state))
    assert model.classification_heads[HEAD].dense.weight.eq(1).all()
    trained = make(seed=4)
    model.load_state_dict({**dict(state), **trained_state(trained)})
    assert not model.classification_heads[HEAD].dense.weight.eq(1).all()
    make(memory_head="memory").load_state_dict(dict(state))


def test_segments_of_another_number_are_refused():
    with pytest.raises(UserError, match="--memory-segments 2"):
        make(memory_segments=3).load_state_dict(trained_state(make(memory_segments=2)))
    bare, segments = make(), make(memory_segments=2)
    segments.load_state_dict(trained_state(bare))
    assert torch.equal(classes_of(segments), classes_of(bare))


# Options


def test_memory_alone_is_trained_with_its_heads():
    model = make(memory_only=True, memory_update="ctrl")
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert all("memory" in one or "controller" in one or "heads" in one for one in trained)
    assert any("classification_heads" in one for one in trained)
    assert any(one.endswith("memory.weight") for one in trained)
    frozen = make(memory_only=True, memory_frozen=True)
    trained = {name for name, one in frozen.named_parameters() if one.requires_grad}
    assert all("classification_heads" in one for one in trained) and trained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(memory_tokens=0, memory_head="memory"), "there is none"),
        (dict(memory_unread=True), "--memory-head memory"),
        (dict(memory_unread=True, memory_head="memory", memory_update="bottleneck"), "bottleneck"),
        (dict(memory_head="end"), "choose one of start, memory"),
        (dict(memory_segments=-1), "whole number from 0"),
        (dict(memory_norm_epsilon=0), "between 0 and 1"),
        (dict(memory_recurrence=1), "a sentence encoder has not"),
        (dict(memory_tokens=0, memory_only=True), "nothing but memory"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        build("mem_roberta", **{**SIZE, "memory_tokens": 3, **options})


def test_training_with_a_lesion_is_refused():
    with pytest.raises(UserError, match="memory_lesion"):
        make(memory_lesion="no-read").train()(TEXT)


def test_the_model_is_fairseqs_for_whoever_asks():
    model = make()
    assert isinstance(model, RobertaModel) and isinstance(model.encoder, RobertaEncoder)
    assert isinstance(copy.deepcopy(model), MemRobertaModel)
