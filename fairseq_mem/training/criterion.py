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

CHUNK_BYTES = 64 * 2**20  # of logits; more gains nothing


class ProjectedCrossEntropy(torch.autograd.Function):
    """Output projection and label-smoothed cross-entropy of N positions, summed."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, target: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss, and the gradients with it while the logits are at hand.

        Args:
            features: N x C.
            weight: V x C, the output projection.
            target: N, no padding among them.
            epsilon: of the smoothing, in fairseq's sense.

        Returns:
            The loss and the negative log-likelihood, both summed.
        """
        words = weight.size(0)
        share = epsilon / (words - 1)
        rows = max(1, CHUNK_BYTES // (4 * words))
        wants_features, wants_weight = ctx.needs_input_grad[:2]
        grad_features = torch.empty_like(features) if wants_features else None
        precise = torch.promote_types(features.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=precise) if wants_weight else None
        loss, likelihood = features.new_zeros(2, dtype=precise)
        for start in range(0, len(target), rows):
            part, wanted = features[start : start + rows], target[start : start + rows, None]
            logits = (part @ weight.T).to(precise)
            total = logits.logsumexp(dim=1, keepdim=True)
            nll = total - logits.gather(1, wanted)
            everything = words * total - logits.sum(dim=1, keepdim=True)
            loss += ((1 - epsilon - share) * nll + share * everything).sum()
            likelihood += nll.sum()
            if wants_features or wants_weight:
                grad = logits.sub_(total).exp_().sub_(share)
                grad.scatter_add_(1, wanted, grad.new_full(wanted.shape, epsilon + share - 1))
                grad = grad.to(features.dtype)
                if grad_features is not None:
                    grad_features[start : start + rows] = grad @ weight
                if grad_weight is not None:
                    if precise == weight.dtype:
                        grad_weight.addmm_(grad.T, part)
                    else:
                        grad_weight += grad.T @ part
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        """Scale what forward has computed."""
        grads = [None if g is None else g * grad_loss.to(g.dtype) for g in ctx.saved_tensors]
        return *grads, None, None


@register_criterion(
    "label_smoothed_cross_entropy_fused", dataclass=LabelSmoothedCrossEntropyCriterionConfig
)
class LabelSmoothedCrossEntropyCriterion(FairseqCriterion):
    """As fairseq's; of the same name, so that training resumes from the one with the other.

    Falls back to fairseq's own computation where the output is not one plain matrix (adaptive
    softmax, quantisation noise), with ``--report-accuracy``, and in float16, whose gradients must
    be scaled before they are rounded.
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
        target = target.flatten()
        real = target.ne(self.padding_idx).nonzero().squeeze(1)
        loss, nll_loss = ProjectedCrossEntropy.apply(
            features.flatten(0, 1).index_select(0, real), weight, target[real], self.eps
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
        if projection.weight.dtype == torch.float16:
            return None
        return None if torch.is_autocast_enabled() else projection.weight
