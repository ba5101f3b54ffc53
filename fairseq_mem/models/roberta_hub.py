"""``mem_roberta`` from Python: features, memory and predictions of raw text."""

from typing import Any

import torch.nn.functional as F
from fairseq.models.roberta.hub_interface import RobertaHubInterface
from torch import Tensor


class MemRobertaHub(RobertaHubInterface):
    """fairseq's hub interface, which also gives memory.

    Without a ``bpe`` text is taken as it is: words of the dictionary, separated by spaces.
    """

    def __init__(self, cfg: Any, task: Any, model: Any) -> None:
        super().__init__(cfg, task, model)
        self.bpe: Any = self.bpe or PlainWords()

    def extract_features(
        self, tokens: Tensor, return_all_hiddens: bool = False, return_memory: bool = False
    ) -> Any:
        """The text's features, B x T x C, of ``tokens`` (T, or B x T), as fairseq gives them.

        Args:
            tokens: from ``encode``.
            return_all_hiddens: a list instead: in front of and behind each layer.
            return_memory: also what memory holds: the pair of that and B x m x C.
        """
        found = super().extract_features(tokens, return_all_hiddens)
        if not return_memory:
            return found
        tokens = tokens.unsqueeze(0) if tokens.dim() == 1 else tokens
        features, extra = self.model(tokens.to(self.device), features_only=True)
        return found, extra.get("memory", features[:, :0])

    def predict(self, head: str, tokens: Tensor, return_logits: bool = False) -> Tensor:
        """Log-probabilities (or logits) of ``head``, B x classes, of ``tokens`` (T, or B x T)."""
        tokens = tokens.unsqueeze(0) if tokens.dim() == 1 else tokens
        logits, _ = self.model(tokens.to(self.device), classification_head_name=head)
        return logits if return_logits else F.log_softmax(logits, dim=-1)


class PlainWords:
    """Text that is made of the dictionary's words already."""

    def encode(self, text: str) -> str:
        """The text itself."""
        return text

    def decode(self, words: str) -> str:
        """The words themselves."""
        return words
