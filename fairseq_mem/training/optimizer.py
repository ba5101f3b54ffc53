"""fairseq's Adam in one fused pass over each parameter, on a CPU too.

``--optimizer adam_fused`` takes the steps of fairseq's ``adam`` to rounding, whose Python loop
passes over every parameter some ten times. State and class names are fairseq's, so that training
resumes from the one with the other.
"""

import logging
import math
from typing import Any

import torch
from fairseq.optim import register_optimizer
from fairseq.optim.adam import Adam, FairseqAdamConfig
from fairseq.optim.adam import FairseqAdam as FairseqOwnAdam
from torch import Tensor
from torch.optim.adamw import adamw

logger = logging.getLogger(__name__)


class FusedAdam(Adam):
    """fairseq's ``Adam``, its state and options; torch's fused kernel."""

    _told = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; anything but plain float32 or float64 parameters takes fairseq's own.

        With ``--fp16`` fairseq gives its optimizers a float32 copy of the parameters, with
        ``--memory-efficient-fp16`` the parameters in half precision themselves.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        plain = {torch.float32, torch.float64}
        if any(
            p.dtype not in plain or (p.grad is not None and p.grad.is_sparse) for p in parameters
        ):
            if not self._told:
                self._told = True
                logger.info(
                    "adam_fused: these parameters are in half precision or sparse, and take "
                    "the steps of fairseq's adam"
                )
            return super().step(closure)
        loss = None if closure is None else closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        by_step: dict[int, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if len(state) == 0:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            by_step.setdefault(state["step"], []).append(parameter)
        beta1, beta2 = group["betas"]
        for step, parameters in by_step.items():
            states = [self.state[parameter] for parameter in parameters]
            adamw(
                parameters,
                [parameter.grad for parameter in parameters if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [torch.tensor(float(step), device=p.device) for p in parameters],
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                # fairseq adds eps before it corrects the second moment's bias, torch after
                eps=group["eps"] / math.sqrt(1 - beta2 ** (step + 1)),
                maximize=False,
            )
            for state in states:
                state["step"] = step + 1


@register_optimizer("adam_fused", dataclass=FairseqAdamConfig)
class FairseqAdam(FairseqOwnAdam):
    """``--optimizer adam_fused``; takes the options of fairseq's ``adam``."""

    _optimizer: torch.optim.Optimizer

    def __init__(self, cfg: FairseqAdamConfig, params: Any) -> None:
        super().__init__(cfg, params)
        if type(self._optimizer) is Adam:  # on a GPU with apex fairseq has a fused one itself
            self._optimizer = FusedAdam(params, **self.optimizer_config)
