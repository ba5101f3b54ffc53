"""The fused criterion in half precision against float64, and against fairseq's criterion."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion as FairseqCriterion,
)
from fairseq.models import BaseFairseqModel
from torch import nn

from fairseq_mem import LabelSmoothedCrossEntropyCriterion
from fairseq_mem.precision import autocast_dtype, without_autocast
from fairseq_mem.training import criterion

WORDS, DIM, PAD = 32_000, 64, 1


class Projecting(BaseFairseqModel):
    """Features and an output projection: what a criterion sees of a model."""

    def __init__(self, dtype):
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.output_projection = nn.Linear(DIM, WORDS, bias=False)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            weight = torch.randn(WORDS, DIM, generator=generator) * DIM**-0.5
            self.decoder.output_projection.weight.copy_(weight.half())
        features = 0.4 * torch.randn(2, 9, DIM, generator=generator)
        self.features = nn.Parameter(features.half().float())
        self.to(dtype)

    def forward(self, features_only=False):
        x = self.features
        return (x if features_only else self.decoder.output_projection(x)), None

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        x = net_output[0]
        return torch.log_softmax(x if x.dtype == torch.double else x.float(), dim=-1)


TARGET = torch.randint(4, WORDS, (2, 9), generator=torch.Generator().manual_seed(6))
TARGET[1, 6:] = PAD
SAMPLE = {"net_input": {}, "target": TARGET, "ntokens": 15}
TASK = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: PAD))


def gradients(kind, dtype, scale, autocast=None, smoothing=0.1):
    """The loss, and the gradients divided by the loss scale again, in float64."""
    model = Projecting(dtype)
    made = kind(TASK, sentence_avg=False, label_smoothing=smoothing)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        loss = made(model, SAMPLE)[0]
    (loss * scale).backward()
    found = (model.features, model.decoder.output_projection.weight)
    assert all(p.grad.dtype == p.dtype for p in found)
    return loss.double().detach(), [p.grad.double() / scale for p in found]


@pytest.mark.parametrize("scale", [1, 128, 2**15])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_errors_are_no_larger_than_those_of_fairseqs_criterion(dtype, scale, autocast):
    """With the vocabulary that recipes have, whose gradients are mostly far below 1e-5."""
    exact_loss, exact = gradients(FairseqCriterion, torch.double, 1)
    precision = dict(dtype=torch.float, autocast=dtype) if autocast else dict(dtype=dtype)
    their_loss, theirs = gradients(FairseqCriterion, scale=scale, **precision)
    our_loss, ours = gradients(LabelSmoothedCrossEntropyCriterion, scale=scale, **precision)
    torch.testing.assert_close(our_loss, exact_loss, rtol=2e-3, atol=0)
    assert abs(our_loss - exact_loss) <= abs(their_loss - exact_loss) + 1e-6 * exact_loss
    for one, other, reference in zip(ours, theirs, exact, strict=True):
        errors = [float((g - reference).norm() / reference.norm()) for g in (one, other)]
        assert errors[0] <= errors[1] * 1.01  # a hundredth: the luck of rounding
        assert errors[0] < (2e-3 if dtype == torch.float16 else 2e-2)


def test_positions_of_padding_are_left_out_as_a_gpu_leaves_them_out():
    """There they are computed with the rest, for nobody may wait for their number."""
    features = torch.randn(7, 5, dtype=torch.double, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.double, requires_grad=True)
    target = torch.tensor([3, 1, 4, 1, 5, 9, 1])
    padding = target.eq(1)
    fused = criterion.ProjectedCrossEntropy.apply
    found = []
    for loss, nll in (
        fused(features, weight, target, 0.1, padding),
        fused(features[~padding], weight, target[~padding], 0.1),
    ):
        found.append([loss, nll, *torch.autograd.grad(loss, (features, weight))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert found[0][2][padding].eq(0).all()


def test_autocast_is_told_of():
    cpu = torch.device("cpu")
    assert autocast_dtype(cpu) is None and autocast_dtype(torch.device("meta")) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_dtype(cpu) == torch.bfloat16
        with without_autocast(cpu):
            assert autocast_dtype(cpu) is None
