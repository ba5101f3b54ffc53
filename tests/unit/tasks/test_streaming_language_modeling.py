"""Options of `mem_transformer_xl` and of its task that make no sense: one line each."""

from types import SimpleNamespace

import pytest
from helpers.random_models import SMALL, dictionary
from helpers.recurrent_models import build, streaming_task, text, words

from fairseq_mem import UserError
from fairseq_mem.command_line import check_arguments


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


def test_tasks_that_make_no_sense(tmp_path):
    for options, said in (
        (dict(self_target=True), "--self-target asks for words that a causal model"),
        (dict(past_target=True), "--past-target"),
        (dict(tokens_per_sample=-3), "tokens_per_sample is -3"),
        (dict(data=str(tmp_path / "nowhere")), "dict.txt does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            streaming_task(tmp_path, **options)
    model = SimpleNamespace(memory_tokens=0, memory_recurrence=2)
    with pytest.raises(UserError, match="nothing to hand on with 0 memory tokens"):
        streaming_task(tmp_path).build_model(model)
    with pytest.raises(UserError, match="needs --batch-size"):
        streaming_task(tmp_path, batch_size=None).build_model(model)
    with pytest.raises(UserError, match="is for mem_transformer_xl"):
        streaming_task(tmp_path).build_model(SimpleNamespace())
    with pytest.raises(UserError, match="'cache_length': 128"):
        streaming_task(tmp_path).eval_lm_dataloader(text(9), context_window=128)
    with pytest.raises(UserError, match="fairseq-eval-lm"):
        streaming_task(tmp_path).build_generator([], None)
    with pytest.raises(UserError, match="no split 'test'"):
        streaming_task(tmp_path).load_dataset("test")


def test_recurrence_over_one_segment_is_warned_of_before_training(tmp_path, caplog):
    task = streaming_task(tmp_path)
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
