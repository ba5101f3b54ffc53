"""A folder with a very small BERT of random weights, as Hugging Face's libraries save it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {
    "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12,
    "num_attention_heads": 2, "max_position_embeddings": 16, "type_vocab_size": 2,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", "."]


def weights() -> dict[str, torch.Tensor]:
    """All parameters by BERT's names."""
    width, inner = 8, 12
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), width),
        "embeddings.position_embeddings.weight": (16, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for layer in range(2):
        for name, rows, columns in (
            ("attention.self.query", width, width), ("attention.self.key", width, width),
            ("attention.self.value", width, width), ("attention.output.dense", width, width),
            ("attention.output.LayerNorm", width, 0), ("intermediate.dense", inner, width),
            ("output.dense", width, inner), ("output.LayerNorm", width, 0),
        ):  # fmt: skip
            whole = f"encoder.layer.{layer}.{name}"
            shapes[f"{whole}.weight"] = (rows, columns) if columns else (rows,)
            shapes[f"{whole}.bias"] = (rows,)
    return {f"bert.{name}": torch.randn(shape) for name, shape in shapes.items()}


def make(folder: Path) -> Path:
    """Write the folder; returns it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SIZES))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": null}')
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    save_file(weights(), folder / "model.safetensors")
    return folder
