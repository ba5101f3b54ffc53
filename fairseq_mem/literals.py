"""Options that are written as Python: read as literals, never run.

fairseq calls ``eval`` on the strings of some options, ``--adam-betas "(0.9, 0.98)"`` for one, and
at inference they come from the checkpoint, which may be a stranger's. In every module of fairseq's
that says ``eval``, :func:`guard_fairseq` gives that name to :func:`evaluate`.
"""

import ast
import operator
from importlib import import_module
from typing import Any

from .errors import UserError

MOST_ITEMS = 10_000  # of a list that is repeated; fairseq's longest have some dozens
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
MODULES = (
    "criterions.ctc", "data.audio.raw_audio_dataset", "data.codedataset", "models.fconv",
    "models.fconv_lm", "models.fconv_self_att", "models.hubert.hubert", "models.lightconv_lm",
    "models.speech_to_text.s2t_wav_transformer", "models.transformer_lm",
    "models.wav2vec.wav2vec", "models.wav2vec.wav2vec2", "optim.adafactor", "optim.adam",
    "optim.adamax", "optim.cpu_adam", "optim.fused_lamb", "utils",
)  # fmt: skip
# What these modules evaluate: their options, and a line of a data file (codedataset).
OPTIONS = frozenset({
    "adafactor_eps", "adam_betas", "adamax_betas", "adaptive_input_cutoff",
    "adaptive_softmax_cutoff", "character_filters", "conv_aggregator_layers",
    "conv_feature_layers", "decoder_attention", "decoder_layers", "decoder_xformers_att_config",
    "downsample", "encoder_attention", "encoder_layers", "encoder_xformers_att_config",
    "feature_encoder_spec", "gated_attention", "lamb_betas", "left_pad_source", "left_pad_target",
    "pipeline_balance", "pipeline_decoder_balance", "pipeline_decoder_devices",
    "pipeline_devices", "pipeline_encoder_balance", "pipeline_encoder_devices", "pretrained",
    "project_input", "self_attention", "wer_args", "xformers_att_config",
})  # fmt: skip


class _Fold(ast.NodeTransformer):
    """Computes sums, differences, products and quotients of literals."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        left, right = ast.literal_eval(node.left), ast.literal_eval(node.right)
        if isinstance(node.op, ast.Mult):
            for items, times in ((left, right), (right, left)):
                if hasattr(items, "__len__") and len(items) * times > MOST_ITEMS:
                    raise ValueError("too long")
        return ast.copy_location(ast.Constant(OPERATORS[type(node.op)](left, right)), node)


def literal(text: str) -> Any:
    """The value of a literal, or of ``+ - * /`` between literals: ``[(512, 3)] * 4``.

    Raises:
        ValueError: it is anything else.
    """
    try:
        tree = ast.parse(text.lstrip(" \t"), mode="eval")
        return ast.literal_eval(_Fold().visit(tree))
    # the last three are what very deep nesting, and numbers without bound, end in
    except (SyntaxError, ValueError, TypeError, KeyError, ArithmeticError, MemoryError,
            RecursionError):  # fmt: skip
        raise ValueError(f"{shown(text)} is no literal") from None


def shown(text: str) -> str:
    """A stranger's string for a message: in one line, not too long, without control characters."""
    if text.isidentifier() and text.isascii() and len(text) <= 60:
        return text
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def evaluate(text: Any) -> Any:
    """What fairseq finds under the name ``eval``.

    Raises:
        UserError: the string is no literal.
        TypeError: it is no string at all; ``fairseq.utils.eval_bool`` relies on it.
    """
    if not isinstance(text, str):
        raise TypeError("eval() arg 1 must be a string")
    try:
        return literal(text)
    except ValueError as error:
        raise UserError(
            f"{error}: an option that fairseq evaluates may hold numbers, strings, True, False, "
            "None, lists, tuples and dictionaries, with + - * / between them; give it so"
        ) from None


def guard_fairseq() -> None:
    """Let fairseq evaluate literals only; fairseq's files stay as they are."""
    for name in MODULES:
        import_module(f"fairseq.{name}").eval = evaluate  # type: ignore[attr-defined]


def numbers_of(text: str | None) -> list[int] | None:
    """The numbers in ``0,3``; None of None, and of text that is no such list."""
    parts = (text or "").split(",")
    # of thousands of digits Python makes no number
    proper = all(part.isdecimal() and len(part) < 10 for part in parts)
    return [int(part) for part in parts] if proper else None
