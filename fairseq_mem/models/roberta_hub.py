"""``mem_roberta`` from Python: features, memory and predictions of raw text."""

from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models.roberta.hub_interface import RobertaHubInterface
from fairseq.utils import model_eval
from torch import Tensor

from ..wordpiece import WordPiece


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

    @torch.no_grad()
    def fill_mask(self, masked_input: str, topk: int = 5) -> list[tuple[str, float, str]]:
        """The likeliest words for ``<mask>``, each as the whole text, its probability, the word.

        Pieces of words know no spaces: one that begins with ``##`` is joined to what is in front.
        (fairseq's own takes the space away with ``<mask>``, as its byte pairs bring theirs.)

        Raises:
            ValueError: there is not one ``<mask>`` in the text.
        """
        if not isinstance(self.bpe, (PlainWords, WordPiece)):
            filled: list[tuple[str, float, str]] = super().fill_mask(masked_input, topk)
            return filled
        before, mask, behind = masked_input.partition("<mask>")
        if not mask or mask in behind:
            raise ValueError(f"{masked_input!r} has not one <mask>; for instance: 'A <mask> film.'")
        words = self.task.source_dictionary
        pieces = f"<s> {self.bpe.encode(before)} <mask> {self.bpe.encode(behind)} </s>"
        tokens = words.encode_line(pieces, append_eos=False, add_if_not_exist=False).long()
        with model_eval(self.model):
            logits, _ = self.model(tokens.unsqueeze(0).to(self.device))
        scores = logits[0, tokens.eq(self.task.mask_idx).nonzero().item()].float().softmax(dim=0)
        scores[[*range(words.nspecial), self.task.mask_idx]] = 0  # no words
        found = []
        for probability, number in zip(*(side.tolist() for side in scores.topk(topk))):
            piece = words[number]
            joined = piece.startswith("##") and isinstance(self.bpe, WordPiece)
            word = piece.removeprefix("##") if joined else piece
            front = before.rstrip() if joined else before
            found.append((f"{front}{word}{behind}", probability, word))
        return found

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
