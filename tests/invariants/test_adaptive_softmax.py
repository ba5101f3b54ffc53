"""fairseq's adaptive softmax around decoders with memory: options, and checkpoints."""

import copy

import pytest
import torch
from helpers.random_models import build, sentences, shifted

from fairseq_mem import UserError

ADAPTIVE = dict(adaptive_softmax_cutoff="8,16", adaptive_softmax_factor=2.0)
INPUT = shifted(sentences([6, 3, 8], seed=3))


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("arch", ["mem_transformer", "mem_transformer_lm"])
def test_a_checkpoint_with_a_shared_embedding_loads(arch, tokens):
    """fairseq added a projection that the model has not, and refused its own checkpoint."""
    options = dict(ADAPTIVE, share_decoder_input_output_embed=True, memory_tokens=tokens)
    options |= dict(decoder_input_dim=16, decoder_output_dim=16, tokens_per_sample=20)
    model, again = (build(arch, seed=seed, **options) for seed in (1, 2))
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    inputs = (INPUT, None, INPUT) if arch == "mem_transformer" else (INPUT,)
    assert torch.equal(again(*inputs)[0], model(*inputs)[0])


def test_the_output_dimension_is_a_text_on_the_command_line():
    """It was compared with numbers as it was: a traceback."""
    model = build(decoder_output_dim="8", memory_tokens=3, **ADAPTIVE)
    assert model.decoder.adaptive_softmax.head.weight.size(1) == 8
    with pytest.raises(UserError, match="decoder_output_dim is 'x'; give a whole number"):
        build(decoder_output_dim="x", **ADAPTIVE)
