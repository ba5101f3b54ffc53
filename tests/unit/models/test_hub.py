"""Translating from Python: fairseq's hub interface around our model, compared with its own."""

import pytest
import torch
from fairseq.models.transformer import TransformerModel
from helpers.trained_models import train

from fairseq_mem import MemTransformerModel

SHORT, OTHER = "s1 s2 s3", "s4"
LONG = " ".join(["s5"] * 60)  # the model takes 24 tokens
SKIP = dict(skip_invalid_size_inputs=True)


@pytest.fixture(scope="module")
def hubs(tmp_path_factory):
    """fairseq's `transformer`, ours without and ours with memory, trained a little."""
    folder = tmp_path_factory.mktemp("hubs")
    made = {}
    for name, cls, flags in (
        ("transformer", TransformerModel, ["--arch", "transformer"]),
        ("no memory", MemTransformerModel, []),
        ("memory", MemTransformerModel, ["--memory-tokens", "3", "--memory-decoder-tokens", "2"]),
    ):
        path = train(folder / name, flags, updates=3)
        made[name] = cls.from_pretrained(str(path.parent), path.name, str(path.parent))
    return made


ours = pytest.mark.parametrize("name", ["no memory", "memory"])
everyone = pytest.mark.parametrize("name", ["transformer", "no memory", "memory"])


@everyone
@pytest.mark.parametrize("verbose", [False, True])
def test_sentences_that_are_too_long_are_left_out(hubs, name, verbose):
    hub = hubs[name]
    wanted = [hub.translate(SHORT), hub.translate(OTHER)]
    assert hub.translate([LONG, SHORT, LONG, OTHER], verbose=verbose, **SKIP) == wanted
    assert hub.translate([LONG], **SKIP) == []
    with pytest.raises(Exception, match="Size of sample #1 is invalid"):
        hub.translate([SHORT, LONG])


@ours
def test_memory_of_those_that_are_left(hubs, name):
    hub = hubs[name]
    found = hub.translate([LONG, SHORT, LONG, OTHER], return_memory=True, **SKIP)
    assert [one.text for one in found] == hub.translate([SHORT, OTHER])
    for one, sentence in zip(found, (SHORT, OTHER), strict=True):
        assert torch.equal(one.memory, hub.memory_states(sentence))
    assert hub.translate([LONG], return_memory=True, **SKIP) == []
    for options in ({}, {"return_memory": True}):
        with pytest.raises(ValueError, match=r"has 61 tokens and the model takes 24"):
            hub.translate(LONG, **SKIP, **options)


@ours
def test_whatever_gives_sentences(hubs, name):
    hub = hubs[name]
    expected = hub.translate([SHORT, OTHER, ""])
    for given in ((SHORT, OTHER, ""), iter([SHORT, OTHER, ""])):
        assert [one.text for one in hub.translate(given, return_memory=True)] == expected
    for options in ({}, SKIP, {"return_memory": True}, {"return_memory": True, **SKIP}):
        assert hub.translate([], **options) == []
        assert len(hub.translate([SHORT], **options)) == 1
        with pytest.raises(TypeError, match="expected string or bytes-like object, got 'list'"):
            hub.translate([[SHORT], [OTHER]], **options)


@everyone
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_alignments(hubs, name, kind):
    """fairseq asks for them with the call, long after it has prepared the model."""
    hub = hubs[name]
    tokens = [hub.encode(SHORT), hub.encode(OTHER)]
    assert len(hub.translate([SHORT, OTHER], print_alignment=kind)) == 2
    for source, hypotheses in zip(tokens, hub.generate(tokens, print_alignment=kind), strict=True):
        for hypothesis in hypotheses:
            words = len(hypothesis["tokens"])
            assert hypothesis["attention"].shape[1] == words
            assert len(hypothesis["alignment"]) == (words - 1 if kind == "hard" else words)
            if kind == "soft":
                assert {len(row) for row in hypothesis["alignment"]} == {len(source)}


@everyone
def test_alignments_are_told(hubs, name, caplog):
    caplog.set_level("INFO", logger="fairseq.hub_utils")
    hubs[name].translate([SHORT], verbose=True, print_alignment="hard", min_len=3)
    told = [message for message in caplog.messages if message.startswith("A\t")]
    assert told and all("-" in message for message in told)


@ours
@pytest.mark.parametrize(
    "options",
    [
        dict(lenpen=0.5, beam=3),
        dict(nbest=2),
        dict(max_len_a=1, max_len_b=3, min_len=2),
        dict(inference_step_args={"prefix_tokens": torch.tensor([[7], [7]])}),
        dict(prefix_allowed_tokens_fn=lambda sentence, tokens: [5, 6, 2]),
        dict(diverse_beam_groups=2, beam=4),
        dict(match_source_len=True),
        dict(no_repeat_ngram_size=1, min_len=6),
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_go_on_to_the_search(hubs, name, options):
    hub = hubs[name]
    found = hub.translate([SHORT, OTHER], return_memory=True, **options)
    assert [one.text for one in found] == hub.translate([SHORT, OTHER], **options)
    if "min_len" in options:
        assert all(len(one.text.split()) >= options["min_len"] for one in found)
    if "no_repeat_ngram_size" in options:
        assert all(len(set(one.text.split())) == len(one.text.split()) for one in found)
    if "inference_step_args" in options:
        first = hub.tgt_dict[7]
        assert all(one.text.split()[0] == first for one in found)
