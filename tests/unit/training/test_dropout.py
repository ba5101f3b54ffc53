"""Dropout: torch's in distribution, and exactly its own mask in the backward pass."""

import pytest
import torch
from fairseq.modules import FairseqDropout
from helpers import random_models

from fairseq_mem.training.dropout import Dropout, keep_mask


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_elements_are_kept_as_often_as_asked(p):
    count = 1_000_000
    kept = keep_mask(torch.empty(1000, 1000), p).double().mean().item()
    spread = (p * (1 - p) / count) ** 0.5
    assert abs(kept - (1 - p)) < 5 * spread + 2**-17


@pytest.mark.parametrize("p", [2**-17, 1e-4, 5e-3, 0.995, 0.9999, 1 - 2**-17, 1 - 2**-30])
def test_rare_probabilities_are_what_they_are(p):
    """Of 16 bits none is left for them: above 1 - 2^-17 nothing was dropped, below 2^-17 either."""
    count = 20_000_000
    y = Dropout(p).train()(torch.ones(count))
    dropped = (y == 0).double().mean().item()
    spread = (p * (1 - p) / count) ** 0.5
    assert abs(dropped - p) < 5 * spread + 3 / count
    assert y.max().item() in (0.0, pytest.approx(1 / (1 - p)))


def test_everything_is_dropped_with_probability_one():
    assert not Dropout(1.0).train()(torch.ones(1000)).any()


def test_neighbours_are_independent():
    # The four elements of a draw, and elements of neighbouring draws.
    mask = keep_mask(torch.empty(1_000_000), 0.3).double() - 0.7
    for distance in (1, 2, 3, 4, 8):
        correlation = (mask[distance:] * mask[:-distance]).mean() / 0.21
        assert abs(correlation.item()) < 5e-3


@pytest.mark.parametrize("shape", [(7,), (3, 5, 11), (0, 4)])
def test_what_is_kept_is_scaled_and_so_is_its_gradient(shape):
    dropout = Dropout(0.3).train()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = dropout(x)
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.7, 0.0), rtol=1e-15, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, kept.double() / 0.7, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_stays(dtype):
    assert Dropout(0.3).train()(torch.ones(5, 5, dtype=dtype)).dtype == dtype


def test_seed_decides_and_evaluation_changes_nothing():
    dropout, x = Dropout(0.3), torch.randn(4, 5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first) and not torch.equal(first, second)
    dropout.eval()
    assert dropout(x) is x
    assert Dropout(0.0).train()(x) is x


def test_models_with_memory_have_it_and_others_dont():
    ours = random_models.build(memory_tokens=2)
    names = {"dropout_module", "activation_dropout_module"}
    found = [type(m) for n, m in ours.named_modules() if n.split(".")[-1] in names]
    assert found and set(found) == {Dropout}
    stock = random_models.build(memory_tokens=0)
    assert not any(isinstance(module, Dropout) for module in stock.modules())
    assert any(isinstance(module, FairseqDropout) for module in stock.modules())
