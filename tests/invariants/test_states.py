"""What encoder and decoder give beside their outputs: lengths, embedding and states of the text."""

import torch
from helpers.random_models import EXACT, build, sentences, shifted

LENGTHS = [5, 2, 4]
SOURCE = sentences(LENGTHS, left_pad=True)


def test_lengths_and_embedding_are_the_texts_alone():
    stock, chosen = build("transformer"), build(memory_tokens=3)
    chosen.encoder.embed_tokens.load_state_dict(stock.encoder.embed_tokens.state_dict())
    expected = stock.encoder(SOURCE, src_lengths=None)
    found = chosen.encoder(SOURCE, src_lengths=None)
    assert found["src_lengths"][0].tolist() == [[length] for length in LENGTHS]
    assert torch.equal(found["src_lengths"][0], expected["src_lengths"][0])
    torch.testing.assert_close(
        found["encoder_embedding"][0], expected["encoder_embedding"][0], **EXACT
    )


def test_states_are_the_input_and_every_layers_output_with_memory():
    chosen = build(memory_tokens=3)
    found = chosen.encoder(SOURCE, src_lengths=None, return_all_hiddens=True)
    assert [tuple(state.shape) for state in found["encoder_states"]] == [(3 + 5, 3, 16)] * 3
    assert torch.equal(found["encoder_states"][0][:3, 1], chosen.encoder.memory.weight)
    assert torch.equal(found["encoder_states"][-1], found["encoder_out"][0])


def test_the_decoders_states_are_the_texts_alone():
    chosen = build(memory_tokens=3, memory_decoder_tokens=2)
    target = shifted(sentences([4, 3, 4], seed=1))
    encoder_out = chosen.encoder(SOURCE, src_lengths=None)
    features, extra = chosen.decoder.extract_features(target, encoder_out)
    assert [tuple(state.shape) for state in extra["inner_states"]] == [(4, 3, 16)] * 3
    torch.testing.assert_close(extra["inner_states"][-1].transpose(0, 1), features, **EXACT)
