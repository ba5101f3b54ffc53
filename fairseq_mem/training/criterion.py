"""fairseq's label-smoothed cross-entropy, without ever holding all logits.

``--criterion label_smoothed_cross_entropy_fused`` gives the loss, the gradients and the log of
fairseq's ``label_smoothed_cross_entropy`` to rounding. That one computes logits and log-softmax for
every position, padding included, and passes over both several times forward and backward. Here
positions that are padding are left out, and the rest goes through the output projection, the
softmax and the gradients chunk by chunk: less time, and a fraction of the memory where the
vocabulary is large.

With e = eps / (V - 1), fairseq's loss of a position with target t is

    (1 - eps - e) * -log p_t  +  e * sum_j -log p_j

whose gradient with respect to logit j is  p_j - e - (1 - eps - e) [j = t].
"""

from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion as FairseqCriterion,
)
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor

from ..precision import autocast_dtype, without_autocast

CHUNK_BYTES = 64 * 2**20  # of logits; more gains nothing
HALF_SCALE = 2.0**15  # of gradients in half precision: none is above 1, and float16 ends at 2^16


class ProjectedCrossEntropy(torch.autograd.Function):
    """Output projection and label-smoothed cross-entropy of N positions, summed.

    In half precision the products are of half tensors, as in fairseq's criterion; logarithms, sums
    over positions and the scaling by the gradient of the loss (``--fp16-init-scale``) are float32.
    The gradient of a logit, which is at most 1, is scaled up before it is rounded, so that small
    probabilities count whatever the loss scale is.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        epsilon: float,
        padding: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss, and the gradients with it while the logits are at hand.

        Args:
            features: N x C.
            weight: V x C, the output projection.
            target: N.
            epsilon: of the smoothing, in fairseq's sense.
            padding: N, True where a position does not count; None: all do.
            dtype: in which the products are computed (default: that of ``features``).

        Returns:
            The loss and the negative log-likelihood, both summed, at least in float32.
        """
        dtype = dtype or features.dtype
        words = weight.size(0)
        share = epsilon / (words - 1)
        rows = max(1, CHUNK_BYTES // (4 * words))
        wants_features, wants_weight = ctx.needs_input_grad[:2]
        precise = torch.promote_types(dtype, torch.float32)
        scale = HALF_SCALE if dtype == torch.float16 else 1.0
        grad_features = torch.empty_like(features, dtype=precise) if wants_features else None
        grad_weight = torch.zeros_like(weight, dtype=precise) if wants_weight else None
        matrix = weight.detach().to(dtype)
        loss, likelihood = features.new_zeros(2, dtype=precise)
        for start in range(0, len(target), rows):
            part, wanted = features[start : start + rows].to(dtype), target[start : start + rows]
            unread = None if padding is None else padding[start : start + rows, None]
            wanted = wanted[:, None]
            logits = (part @ matrix.T).to(precise)
            total = logits.logsumexp(dim=1, keepdim=True)
            nll = total - logits.gather(1, wanted)
            everything = words * total - logits.sum(dim=1, keepdim=True)
            if unread is not None:
                nll, everything = nll.masked_fill(unread, 0.0), everything.masked_fill(unread, 0.0)
            loss += ((1 - epsilon - share) * nll + share * everything).sum()
            likelihood += nll.sum()
            if wants_features or wants_weight:
                grad = logits.sub_(total).exp_().sub_(share)
                grad.scatter_add_(1, wanted, grad.new_full(wanted.shape, epsilon + share - 1))
                if unread is not None:
                    grad.masked_fill_(unread, 0.0)
                grad = grad.mul_(scale).to(dtype) if scale != 1.0 else grad.to(dtype)
                del logits
                if grad_features is not None:
                    grad_features[start : start + rows] = _product(grad, matrix)
                if grad_weight is not None and precise == dtype:
                    grad_weight.addmm_(grad.T, part)
                elif grad_weight is not None:
                    grad_weight += _product(grad.T, part)
        ctx.scale, ctx.dtypes = scale, (features.dtype, weight.dtype)
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        """Scale what forward has computed."""
        grads = [
            None if g is None else (g * (grad_loss / ctx.scale).to(g.dtype)).to(dtype)
            for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of half tensors, summed and returned in float32; others' in their own precision."""
    if a.dtype not in (torch.float16, torch.bfloat16):
        return a @ b
    if a.device.type == "cuda" and _WIDE_PRODUCTS:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


_WIDE_PRODUCTS = "dtype" in torch.ops.aten.mm.overloads()  # since torch 2.8, on a GPU


@register_criterion(
    "label_smoothed_cross_entropy_fused", dataclass=LabelSmoothedCrossEntropyCriterionConfig
)
class LabelSmoothedCrossEntropyCriterion(FairseqCriterion):
    """As fairseq's; of the same name, so that training resumes from the one with the other.

    Falls back to fairseq's own computation where the output is not one plain matrix (adaptive
    softmax, quantisation noise), and with ``--report-accuracy``.
    """

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> Any:
        """Compute the loss of a batch, as fairseq's criterion does.

        Returns:
            The loss (summed; divided by ``sample_size`` later), the sample size and the log.
        """
        weight = self._output_weight(model)
        if weight is None or not reduce or self.report_accuracy:
            return super().forward(model, sample, reduce)
        features = model(**sample["net_input"], features_only=True)[0]
        target = sample["target"]
        if self.ignore_prefix_size > 0:
            features = features[:, self.ignore_prefix_size :]
            target = target[:, self.ignore_prefix_size :]
        features, target = features.flatten(0, 1), target.flatten()
        padding: Tensor | None = target.eq(self.padding_idx)
        if padding is not None and padding.device.type == "cpu":
            # a GPU would have to be waited for; there padding is computed with the rest
            real = (~padding).nonzero().squeeze(1)
            features, target, padding = features.index_select(0, real), target[real], None
        dtype = autocast_dtype(features.device)
        with without_autocast(features.device):
            loss, nll_loss = ProjectedCrossEntropy.apply(
                features, weight, target, self.eps, padding, dtype
            )
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "loss": loss.data,
            "nll_loss": nll_loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        return loss, sample_size, log

    @staticmethod
    def _output_weight(model: Any) -> Tensor | None:
        """V x C, if this path can take the model's output projection; None otherwise."""
        decoder = getattr(getattr(model, "module", model), "decoder", None)
        projection = getattr(decoder, "output_projection", None)
        if getattr(decoder, "adaptive_softmax", None) is not None:
            return None
        if type(projection) is not torch.nn.Linear or projection.bias is not None:
            return None
        if projection._forward_pre_hooks or projection._forward_hooks:
            return None
        return projection.weight
