"""Our criterion and optimizer against fairseq's, in float64."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion as FairseqCriterion,
)
from fairseq.optim.adam import Adam
from helpers.random_models import build, dictionary, sentences, shifted

from fairseq_mem import LabelSmoothedCrossEntropyCriterion
from fairseq_mem.training import criterion
from fairseq_mem.training.optimizer import FusedAdam

SOURCE = sentences([6, 3, 5], left_pad=True, seed=1)
TARGET = sentences([5, 7, 2], seed=2)
SAMPLE = {
    "net_input": {
        "src_tokens": SOURCE,
        "src_lengths": SOURCE.ne(1).sum(1),
        "prev_output_tokens": shifted(TARGET),
    },
    "target": TARGET,
    "ntokens": 14,
}
TASK = SimpleNamespace(target_dictionary=dictionary())


def both(smoothing=0.1, **options):
    """fairseq's criterion and ours."""
    return [
        cls(TASK, sentence_avg=False, label_smoothing=smoothing, **options)
        for cls in (FairseqCriterion, LabelSmoothedCrossEntropyCriterion)
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ignore_prefix_size", [0, 1])
def test_loss_log_and_gradients_are_fairseqs(
    smoothing, chunk_rows, shared, ignore_prefix_size, monkeypatch
):
    monkeypatch.setattr(criterion, "CHUNK_BYTES", chunk_rows * 4 * 24)
    # fairseq's softmax is float32 whatever comes in; the formula is what we compare
    monkeypatch.setattr(utils, "log_softmax", lambda x, dim, onnx_trace: x.log_softmax(dim))
    results = []
    for chosen in both(smoothing, ignore_prefix_size=ignore_prefix_size):
        model = build(memory_tokens=3, share_all_embeddings=shared).train()
        loss, sample_size, log = chosen(model, SAMPLE)
        (loss / 7).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((loss.detach(), sample_size, log, gradients))
    (loss, size, log, gradients), (our_loss, our_size, our_log, our_gradients) = results
    torch.testing.assert_close(our_loss, loss, rtol=1e-12, atol=1e-10)
    assert our_size == size and set(our_log) == set(log)
    for name, value in log.items():
        assert float(our_log[name]) == pytest.approx(float(value), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=0, atol=1e-10)


def test_gradcheck():
    features = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(9, 6, dtype=torch.double, requires_grad=True)
    target = torch.tensor([3, 8, 0, 3])

    def loss(features, weight):
        return criterion.ProjectedCrossEntropy.apply(features, weight, target, 0.1)[0]

    assert torch.autograd.gradcheck(loss, (features, weight))


def test_bfloat16_stays_close_and_finite():
    exact, rough = (build(memory_tokens=3).train() for _ in range(2))
    rough = rough.bfloat16()
    ours = both()[1]
    losses = [ours(model, SAMPLE)[0] for model in (exact, rough)]
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.03)
    assert all(p.grad.isfinite().all() for p in rough.parameters() if p.grad is not None)


def test_falls_back_to_fairseqs_computation():
    model = build(memory_tokens=3, adaptive_softmax_cutoff=[10, 15])
    assert LabelSmoothedCrossEntropyCriterion._output_weight(model) is None


def test_steps_are_fairseqs():
    groups = []
    for cls in (Adam, FusedAdam):
        torch.manual_seed(3)
        parameters = [torch.nn.Parameter(torch.randn(n, 4, dtype=torch.double)) for n in (3, 5)]
        optimizer = cls(parameters, lr=0.1, betas=(0.9, 0.98), eps=1e-3, weight_decay=0.01)
        for step in range(6):
            for number, parameter in enumerate(parameters):
                # the second parameter has no gradient at first: its steps are counted apart
                parameter.grad = torch.randn_like(parameter) if step > 1 or number == 0 else None
            optimizer.step()
        groups.append((parameters, optimizer))
    (theirs, their_optimizer), (ours, our_optimizer) = groups
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    state, our_state = their_optimizer.state_dict(), our_optimizer.state_dict()
    assert [s["step"] for s in state["state"].values()] == [6, 4]
    for one, other in zip(state["state"].values(), our_state["state"].values(), strict=True):
        assert one["step"] == other["step"] and set(one) == set(other)
    our_optimizer.load_state_dict(state)
    their_optimizer.load_state_dict(our_state)


def test_half_precision_parameters_take_fairseqs_step():
    results = []
    for cls in (Adam, FusedAdam):
        parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        parameter.grad = torch.full_like(parameter, 0.5)
        cls([parameter], lr=0.1).step()
        results.append(parameter.detach())
    assert torch.equal(*results)
