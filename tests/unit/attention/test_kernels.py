"""Which of torch's attention kernels can be chosen: not the slow one; no mask without need."""

import pytest
import torch
import torch.nn.functional as F
from helpers.random_models import build, sentences, shifted
from torch.nn.attention import SDPBackend, sdpa_kernel

FAST = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
PADDED, WHOLE = sentences([6, 3, 5], left_pad=True), sentences([6, 6, 6])
OPTIONS = [
    dict(memory_tokens=3),
    dict(memory_tokens=3, memory_decoder_tokens=2, memory_positions=True),
    dict(memory_tokens=3, memory_update="ctrl-shared"),
    dict(memory_tokens=3, memory_update="bottleneck"),
]


def attend(model, source):
    """Training, and two steps of a search with beams of two."""
    model.train()(source, None, shifted(sentences([5, 7, 2], seed=2)))[0].float().sum().backward()
    model.eval().set_beam_size(2)
    state, rows = {}, torch.arange(3).repeat_interleave(2)
    with torch.no_grad():
        encoder_out = model.encoder.reorder_encoder_out(model.encoder(source), rows)
        for step in (1, 2):
            tokens = torch.full((6, step), 5)
            model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("source", [PADDED, WHOLE], ids=["padded", "whole"])
@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
def test_the_slow_kernel_is_not_needed(options, source, dtype):
    model = build(double=False, **options).to(dtype)
    with sdpa_kernel(FAST):
        attend(model, source)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_padding_the_source_is_read_without_a_mask(options, monkeypatch):
    """What is left is what hides the future: the decoder's own."""
    masks = []
    original = F.scaled_dot_product_attention

    def recorded(q, k, v, attn_mask=None, *more, **named):
        masks.append(attn_mask)
        return original(q, k, v, attn_mask, *more, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    counts = []
    for source in (WHOLE, PADDED):
        masks.clear()
        attend(build(double=False, **options), source)
        assert all(mask is None or mask.stride(-1) == 1 for mask in masks)
        counts.append((sum(mask is not None for mask in masks), len(masks)))
    decoder_layers, calls = 2, 3  # training and two steps
    # only the first step of a beam without decoder memory attends to itself without a mask
    assert counts[0][0] <= decoder_layers * calls < counts[1][0] <= counts[1][1]
