"""What all our models have in common: how they train, load and compute with memory."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from fairseq.models import BaseFairseqModel

from ..attention.controls import NAME as CONTROLS
from ..attention.controls import fit_controls
from ..memory import MemoryTokens, fit_checkpoint
from ..option_conflicts import refuse_training
from ..streaming.carry import fit_carry

logger = logging.getLogger(__name__)

OF_MEMORY = {"memory", "controller", "carry", CONTROLS}  # modules that --memory-only trains


class MemoryModel(BaseFairseqModel):
    """A model with modules that have :class:`MemoryTokens` named ``memory``.

    Attributes:
        memory_places: the names of those modules, as far as a model has them.
    """

    has_memory = True  # tells command_line which architectures are ours
    memory_places: tuple[str, ...] = ("encoder", "decoder")
    if TYPE_CHECKING:  # TorchScript, which takes fairseq's own model, would try to keep it
        args: Any

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hook of torch's; refuses to train what is for looking at a trained model.

        Raises:
            UserError: the model is in training mode and has a lesion, or a controller and no
                memory.
        """
        if self.training:
            refuse_training(self.args)
        return super().forward(*args, **kwargs)

    def freeze_for(self, args: Any) -> None:
        """Apply ``--memory-only``: train memory, its controller and the controls alone."""
        if args.memory_only:
            for name, parameter in self.named_parameters():
                parameter.requires_grad = not OF_MEMORY.isdisjoint(name.split("."))

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Hook of fairseq's, before inference: to bfloat16, if that is wanted and gains time."""
        if self.args.memory_bf16 and next(self.parameters()).device.type == "cpu":
            if torch.ops.mkldnn._is_mkldnn_bf16_supported():
                self.bfloat16()
            else:
                logger.warning("memory_bf16: this CPU has no bfloat16; computing in float32")
        super().prepare_for_inference_(cfg)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Fit a checkpoint's memory to ours; called by fairseq before every load."""
        prefix = f"{name}." if name else ""
        # --store-ema leaves all versions out. fairseq then takes the model for one of its first: it
        # throws the norm behind the last pre-norm layer away, and refuses an adaptive softmax. Its
        # first models had one projection for queries, keys and values.
        if any(key.endswith(".q_proj.weight") for key in state_dict):
            for buffer, value in self.named_buffers():
                if buffer.split(".")[-1] == "version":
                    state_dict.setdefault(prefix + buffer, value)
        super().upgrade_state_dict_named(state_dict, name)
        # of a shared embedding fairseq makes a projection here, also where the softmax is adaptive
        # and has none: no checkpoint of such a training would ever load
        decoder = getattr(self, "decoder", None)
        if getattr(decoder, "adaptive_softmax", None) is not None:
            state_dict.pop(f"{prefix}decoder.output_projection.weight", None)
        for place in self.memory_places:
            self.fit_memory(state_dict, f"{prefix}{place}.memory", place)
            carry = getattr(getattr(self, place, None), "carry", None)
            fit_carry(state_dict, f"{prefix}{place}.carry", carry)
        fit_controls(state_dict, prefix, self, self.args.memory_grow)

    def fit_memory(self, state_dict: dict[str, Any], name: str, place: str) -> None:
        """Fit the memory of one place to ours; ``name`` is that of the memory in the checkpoint."""
        fit_checkpoint(state_dict, name, self.memory_of(place), self.args.memory_grow)

    def memory_of(self, place: str) -> MemoryTokens | None:
        """The memory tokens of one of :attr:`memory_places`; None if it has none."""
        module: Any = self
        for name in place.split("."):
            module = getattr(module, name, None)
        return getattr(module, "memory", None)
