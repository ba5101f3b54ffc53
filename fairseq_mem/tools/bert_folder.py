"""A Hugging Face folder with a BERT: read with care, and its weights by fairseq's names."""

from pathlib import Path
from typing import NamedTuple

import torch
from fairseq_mem_text.files import read_json
from torch import Tensor

from ..errors import UserError, first_line

# fairseq's special symbols and BERT's, which are the same things
SPECIAL = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]", "<unk>": "[UNK]"}
MASK = ("<mask>", "[MASK]")  # fairseq's tasks add it behind all others
ACTIVATIONS = {
    "gelu": "gelu", "relu": "relu", "gelu_new": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
}  # fmt: skip
LARGEST = 1_000_000  # of a size in config.json; more is a slip or worse
ENCODER = "encoder.sentence_encoder"
LAYER = {  # of BERT's layer, of fairseq's
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
WORD_HEAD = {
    "cls.predictions.transform.dense": "encoder.lm_head.dense",
    "cls.predictions.transform.LayerNorm": "encoder.lm_head.layer_norm",
}


class Config(NamedTuple):
    """What of ``config.json`` matters."""

    layers: int
    width: int
    inner: int
    heads: int
    positions: int
    segments: int
    activation: str
    epsilon: float
    dropout: float
    attention_dropout: float


class Bert(NamedTuple):
    """A BERT, by fairseq's names.

    Attributes:
        config: its sizes.
        words: the dictionary in fairseq's order, without special symbols.
        vocabulary: BERT's number of every word.
        weights: the parameters of ``mem_roberta`` without memory, in float32.
        pooler: weight (C x C) and bias (C) of the pooler; None without.
        has_word_head: the weights have a head that predicts masked words.
        tied: that head's matrix is the embedding.
    """

    config: Config
    words: list[str]
    vocabulary: dict[str, int]
    weights: dict[str, Tensor]
    pooler: tuple[Tensor, Tensor] | None
    has_word_head: bool
    tied: bool


def read_bert(folder: Path) -> Bert:
    """Read a folder with ``config.json``, ``vocab.txt`` and ``model.safetensors``.

    Raises:
        UserError: a file is missing or damaged, the model is no BERT, or its weights are not what
            its configuration says.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with a BERT of Hugging Face's form")
    config = _read_config(folder / "config.json")
    vocabulary = _read_vocabulary(folder / "vocab.txt")
    tensors = _read_weights(folder)
    words = [word for word in vocabulary if word not in {*SPECIAL.values(), MASK[1]}]
    order = torch.tensor([vocabulary[word] for word in [*SPECIAL.values(), *words, MASK[1]]])
    taken = _Weights(tensors, folder / "model.safetensors")
    weights = _encoder(taken, config, order)
    pooler = None
    if taken.has("pooler.dense.weight"):
        shapes = ((config.width, config.width), (config.width,))
        matrix, bias = (
            taken.take(f"pooler.dense.{part}", shape)
            for part, shape in zip(("weight", "bias"), shapes, strict=True)
        )
        pooler = matrix, bias
    has_head, tied = _word_head(taken, config, order, weights)
    return Bert(config, words, vocabulary, weights, pooler, has_head, tied)


def _needed(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; import-bert needs {path.name}")
    return path


def _read_config(path: Path) -> Config:
    try:
        found = read_json(_needed(path))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}; fetch it again") from None
    kind = found.get("model_type")
    if kind != "bert":
        raise UserError(
            f"{path} is of a model of type {_short(kind)}, and only bert can be imported; give a "
            "BERT"
        )
    for name, allowed in (
        ("position_embedding_type", ("absolute", None)),
        ("is_decoder", (False, None)),
        ("add_cross_attention", (False, None)),
    ):
        if found.get(name) not in allowed:
            raise UserError(
                f"{path} has {name} {_short(found[name])}, which mem_roberta has not; give a plain "
                "BERT"
            )
    activation = found.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(
            f"{path} has hidden_act {_short(activation)}; known are {', '.join(ACTIVATIONS)}"
        )

    def size(name: str) -> int:
        value = found.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
            raise UserError(f"{path} has {name} {_short(value)}; it must be a whole number above 0")
        return value

    def fraction(name: str, default: float) -> float:
        value = found.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            raise UserError(f"{path} has {name} {_short(value)}; it must be a number from 0 to 1")
        return float(value)

    epsilon = fraction("layer_norm_eps", 1e-12)
    if epsilon == 0:
        raise UserError(f"{path} has layer_norm_eps 0; it must be above 0")
    config = Config(
        size("num_hidden_layers"), size("hidden_size"), size("intermediate_size"),
        size("num_attention_heads"), size("max_position_embeddings"), size("type_vocab_size"),
        ACTIVATIONS[activation], epsilon, fraction("hidden_dropout_prob", 0.1),
        fraction("attention_probs_dropout_prob", 0.1),
    )  # fmt: skip
    if config.width % config.heads:
        raise UserError(
            f"{path} has hidden_size {config.width}, which {config.heads} heads do not divide"
        )
    return config


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_vocabulary(path: Path) -> dict[str, int]:
    """The number of every word: its line."""
    try:
        text = _needed(path).read_bytes().decode("utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}; fetch it again") from None
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    vocabulary = {word: number for number, word in enumerate(lines)}
    for word in (*SPECIAL.values(), MASK[1]):
        if word not in vocabulary:
            raise UserError(f"{path} has no {word}; give the vocabulary of a BERT")
    for number, word in enumerate(lines):
        if vocabulary[word] != number:
            raise UserError(f"{path} has {_short(word)} twice; give the vocabulary of a BERT")
        # what fairseq would not read as it was written
        if word in (*SPECIAL, MASK[0]) or word.split() != [word] or "#fairseq:" in word:
            raise UserError(
                f"line {number + 1} of {path} is {_short(word)}, which fairseq's dictionary "
                "cannot hold; give the vocabulary of a BERT"
            )
    return vocabulary


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors``: a format that holds data alone."""
    try:
        from safetensors import torch as safetensors
    except ImportError:
        raise UserError(
            "import-bert needs safetensors, which is not installed; run: "
            "pip install 'fairseq-mem[bert]'"
        ) from None
    path = folder / "model.safetensors"
    if not path.is_file():
        pickles = sorted(one.name for one in folder.glob("*.bin"))
        raise UserError(
            f"{path} is missing"
            + (
                f", and {pickles[0]} is a pickle, which can run code when it is read: save the "
                "model again with safetensors"
                if pickles
                else "; import-bert needs model.safetensors"
            )
        )
    try:
        if not _is_utf8(path):  # the library takes no other
            return safetensors.load(path.read_bytes())
        return safetensors.load_file(path)
    except OSError:
        raise
    except Exception as error:  # the library has a class of its own
        raise UserError(
            f"{path} is damaged, or no safetensors ({first_line(error)}); fetch it again"
        ) from None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class _Weights:
    """The tensors of a file, by the names without the model's prefix, and checked when taken."""

    def __init__(self, tensors: dict[str, Tensor], path: Path) -> None:
        prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
        self.path = path
        self.tensors = {
            # older files call a norm's parameters by TensorFlow's names
            name.removeprefix(prefix)
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
            for name, tensor in tensors.items()
        }

    def has(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """A tensor in float32; None in its ``shape`` stands for any size."""
        if name not in self.tensors:
            raise UserError(f"{self.path} has no {name}; it is not the model of its config.json")
        tensor = self.tensors[name]
        fits = tensor.dim() == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
        )
        if not fits or not tensor.is_floating_point():
            wanted_shape = " x ".join("any" if size is None else str(size) for size in shape)
            raise UserError(
                f"{self.path} has {name} of shape {' x '.join(map(str, tensor.shape))} "
                f"({tensor.dtype}), and config.json says {wanted_shape}; it is another model's"
            )
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{self.path} has {name} with numbers that are not finite; it is broken"
            )
        return tensor.float()


def _encoder(taken: _Weights, config: Config, order: Tensor) -> dict[str, Tensor]:
    """The parameters of the encoder by fairseq's names; ``order`` are BERT's numbers of words."""
    width = config.width
    words = taken.take("embeddings.word_embeddings.weight", (None, width))
    if words.size(0) <= int(order.max()):
        raise UserError(
            f"{taken.path} has embeddings of {words.size(0)} words, and vocab.txt has "
            f"{int(order.max()) + 1}; it is another model's"
        )
    positions = taken.take("embeddings.position_embeddings.weight", (config.positions, width))
    weights = {
        f"{ENCODER}.embed_tokens.weight": words[order],
        # fairseq counts positions from behind the number of its padding symbol
        f"{ENCODER}.embed_positions.weight": torch.cat([torch.zeros(2, width), positions]),
        f"{ENCODER}.embed_segments.weight": taken.take(
            "embeddings.token_type_embeddings.weight", (config.segments, width)
        ),
    }
    for part in ("weight", "bias"):
        weights[f"{ENCODER}.layernorm_embedding.{part}"] = taken.take(
            f"embeddings.LayerNorm.{part}", (width,)
        )
    shapes: dict[str, tuple[int, int]] = {
        "fc1": (config.inner, width), "fc2": (width, config.inner),
    }  # fmt: skip
    for number in range(config.layers):
        for theirs, ours in LAYER.items():
            source, target = f"encoder.layer.{number}.{theirs}", f"{ENCODER}.layers.{number}.{ours}"
            matrix = shapes.get(ours, (width, width))
            if "norm" in ours:
                weights[f"{target}.weight"] = taken.take(f"{source}.weight", (width,))
            else:
                weights[f"{target}.weight"] = taken.take(f"{source}.weight", matrix)
            weights[f"{target}.bias"] = taken.take(f"{source}.bias", matrix[:1])
    if taken.has(f"encoder.layer.{config.layers}.output.dense.weight"):
        raise UserError(
            f"{taken.path} has more layers than the {config.layers} of config.json; it is another "
            "model's"
        )
    weights[f"{ENCODER}.version"] = torch.tensor([3.0])
    return weights


def _word_head(
    taken: _Weights, config: Config, order: Tensor, weights: dict[str, Tensor]
) -> tuple[bool, bool]:
    """Add the head that predicts masked words, if there is one; tells that, and if it is tied."""
    if not taken.has("cls.predictions.transform.dense.weight"):
        return False, True
    width = config.width
    for theirs, ours in WORD_HEAD.items():
        shape = (width,) if "norm" in ours else (width, width)
        weights[f"{ours}.weight"] = taken.take(f"{theirs}.weight", shape)
        weights[f"{ours}.bias"] = taken.take(f"{theirs}.bias", (width,))
    name = "cls.predictions.bias"
    bias = taken.take(name if taken.has(name) else "cls.predictions.decoder.bias", (None,))
    embedding = weights[f"{ENCODER}.embed_tokens.weight"]
    matrix = embedding
    if taken.has("cls.predictions.decoder.weight"):
        matrix = taken.take("cls.predictions.decoder.weight", (None, width))
        if matrix.size(0) > int(order.max()):
            matrix = matrix[order]
    if bias.size(0) <= int(order.max()) or matrix.size(0) != embedding.size(0):
        raise UserError(
            f"{taken.path} predicts {bias.size(0)} words, and embeds others; it is broken"
        )
    weights["encoder.lm_head.bias"] = bias[order]
    weights["encoder.lm_head.weight"] = matrix
    return True, bool(torch.equal(matrix, embedding))
