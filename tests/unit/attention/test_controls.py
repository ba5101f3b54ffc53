"""The controls outside of attention: what is returned of it, refusals, exports."""

from argparse import Namespace
from pathlib import Path

import pytest
from helpers.random_models import build, sentences, shifted

from fairseq_mem import UserError
from fairseq_mem.command_line import check_arguments
from fairseq_mem.tools import export

SOURCE, TARGET = sentences([6, 3], left_pad=True), shifted(sentences([5, 5], seed=2))


def test_returned_attention_has_the_sources_columns_alone():
    model = build(memory_tokens=2, memory_static=3, attention_sink=True)
    weights = model(SOURCE, None, TARGET)[1]["attn"][0]
    assert weights.shape == (2, 5, 6)
    assert (weights[1, :, :3] == 0).all() and (weights[0] > 0).all()


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(memory_static=3), "--memory-static 3"),
        (dict(attention_sink=True), "--attention-sink"),
    ],
)
def test_exports_refuse_them_in_one_line(options, said):
    args = Namespace(**options)
    state = {"cfg": Namespace(model=args, task=Namespace(_name="translation"))}
    args.arch = args._name = "mem_transformer"
    with pytest.raises(UserError, match=f"m.pt cannot be exported: {said}; transformer and"):
        export._check_options(Path("m.pt"), state)


@pytest.mark.parametrize("option", ["--attention-sink", "--memory-static=3"])
def test_another_architecture_has_none(option):
    with pytest.raises(UserError, match=f"{option.split('=')[0]} needs an architecture"):
        check_arguments(["data", "--arch", "transformer", option])


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(memory_static=-1), "memory_static is -1; give a whole number from 0 to 4096"),
        (dict(attention_sink="yes"), "attention_sink is 'yes'; give True or False"),
        (dict(memory_static=2, cross_self_attention=True), "neither --memory-static nor"),
        (dict(attention_sink=True, encoder_xformers_att_config={}), "does not know memory"),
    ],
)
def test_values_that_make_no_sense_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        build(memory_tokens=0, **options)
