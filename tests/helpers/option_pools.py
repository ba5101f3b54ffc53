"""Options that people may combine, by model family: each a flag with its values."""

import hypothesis.strategies as st

Flag = tuple[str, ...]


def of(name: str, *values: object) -> list[Flag]:
    """An option with each of some values; without values a switch."""
    return [(name, str(value)) for value in values] if values else [(name,)]


def sides(name: str, *values: object) -> list[Flag]:
    """One of the encoder's and of the decoder's."""
    return [*of(f"--encoder-{name}", *values), *of(f"--decoder-{name}", *values)]


MEMORY = [
    *of("--memory-tokens", 0, 1, 3, 7), *of("--memory-init-std", 0.02, 2.0),
    *of("--memory-positions"), *of("--memory-static", 1, 4), *of("--attention-sink"),
    *of("--memory-only"), *of("--memory-grow"),
]  # fmt: skip
UPDATES = of("--memory-update", "shared", "ctrl", "ctrl-shared", "bottleneck")
ANY = [
    *of("--dropout", 0.2), *of("--attention-dropout", 0.2), *of("--activation-dropout", 0.2),
    *of("--activation-fn", "gelu", "tanh"), *of("--layernorm-embedding"),
    *of("--no-token-positional-embeddings"), *of("--no-scale-embedding"),
    *of("--checkpoint-activations"), *of("--quant-noise-pq", 0.1),
]  # fmt: skip
ADAPTIVE = [
    ("--adaptive-softmax-cutoff", cutoff, "--criterion", "adaptive_loss",
     "--ddp-backend", "legacy_ddp") for cutoff in ("8,16", "5", "23", "30")
]  # fmt: skip
ADAPTIVE = [
    *ADAPTIVE, *of("--adaptive-softmax-factor", 1, 2, 9), *of("--adaptive-softmax-dropout", 0.1),
    *of("--tie-adaptive-weights"), *of("--tie-adaptive-proj"),
]  # fmt: skip
CRITERIA = [
    *of("--criterion", "label_smoothed_cross_entropy", "label_smoothed_cross_entropy_fused"),
]
DECODER = [
    *of("--share-decoder-input-output-embed"), *of("--no-decoder-final-norm"),
    *of("--decoder-normalize-before"), *of("--decoder-learned-pos"), *of("--decoder-layers", 1, 3),
    *of("--decoder-output-dim", 8), *of("--decoder-layerdrop", 0.3),
    *of("--decoder-attention-heads", 1, 4), *of("--decoder-embed-dim", 24),
    *of("--max-target-positions", 9, 20),
]  # fmt: skip

TRANSLATION = [
    *of("--arch", "mem_transformer", "mem_transformer_small", "mem_transformer_big",
        "mem_transformer_iwslt_de_en", "mem_transformer_wmt_de_en", "mem_ctrl_transformer",
        "mem_ctrl_shared_transformer_small", "mem_bottleneck_transformer",
        "mem_bottleneck_transformer_iwslt_de_en", "mem_ctrl_transformer_small"),
    *MEMORY, *UPDATES, *ANY, *ADAPTIVE, *CRITERIA, *DECODER,
    *of("--memory-decoder-tokens", 0, 1, 2, 5),
    *(("--memory-recurrence", str(k), "--task", "document_translation") for k in (1, 2)),
    *of("--memory-recurrence", 2), *of("--task", "document_translation"),
    *of("--memory-carry", "plain", "gate"),
    *of("--encoder-normalize-before"), *of("--encoder-learned-pos"), *of("--encoder-layers", 1, 3),
    *of("--encoder-layerdrop", 0.3), *of("--encoder-attention-heads", 1, 4),
    *of("--encoder-embed-dim", 24), *of("--share-all-embeddings"), *of("--merge-src-tgt-embed"),
    *of("--max-source-positions", 9, 20), *of("--no-cross-attention"),
    *of("--cross-self-attention"),
]  # fmt: skip
LANGUAGE_MODEL = [
    *of("--arch", "mem_transformer_lm", "mem_transformer_lm_wiki103",
        "mem_transformer_lm_gpt2_small"),
    *MEMORY, *ANY, *ADAPTIVE, *CRITERIA, *DECODER, *of("--decoder-input-dim", 8, 16),
    *(("--adaptive-input", "--adaptive-input-cutoff", cutoff) for cutoff in ("8,16", "5", "23")),
    *of("--adaptive-input-factor", 1, 2, 9), *of("--tokens-per-sample", 9, 12),
    *of("--character-embeddings"), *of("--memory-decoder-tokens", 2), *of("--memory-recurrence", 2),
    *of("--scale-fc"), *of("--scale-heads"), *of("--scale-attn"), *of("--scale-resids"),
]  # fmt: skip
TRANSFORMER_XL = [
    *of("--arch", "mem_transformer_xl", "mem_transformer_xl_small"),
    *MEMORY, *ADAPTIVE, *CRITERIA,
    *of("--dropout", 0.2), *of("--attention-dropout", 0.2), *of("--activation-dropout", 0.2),
    *of("--decoder-normalize-before"), *of("--decoder-layers", 1, 3),
    *of("--decoder-attention-heads", 1, 4, 3), *of("--decoder-embed-dim", 24, 12),
    *of("--cache-length", 0, 2, 5, 40), *of("--clamp-distance", 1, 3),
    *of("--memory-recurrence", 1, 2, 3), *of("--memory-carry", "plain", "gate"),
    *of("--tokens-per-sample", 1, 3, 9), *of("--memory-update", "ctrl"),
]  # fmt: skip
SENTENCE_ENCODER = [
    *of("--arch", "mem_roberta", "mem_roberta_base", "mem_roberta_large", "mem_roberta_small"),
    *MEMORY, *UPDATES,
    *of("--dropout", 0.2), *of("--attention-dropout", 0.2), *of("--activation-dropout", 0.2),
    *of("--pooler-dropout", 0.2), *of("--activation-fn", "relu", "tanh"),
    *of("--pooler-activation-fn", "gelu"), *of("--encoder-normalize-before"),
    *of("--layernorm-embedding"), *of("--encoder-layerdrop", 0.3),
    *of("--quant-noise-pq", 0.1),
    *of("--untie-weights-roberta"),
    *of("--max-positions", 9, 20), *of("--encoder-layers", 1, 3),
    *of("--encoder-attention-heads", 1, 4), *of("--encoder-embed-dim", 24),
    *of("--memory-head", "start", "memory"), *of("--memory-unread"), *of("--memory-frozen"),
    *of("--memory-segments", 1, 2, 3), *of("--memory-norm-epsilon", 1e-12),
    *of("--memory-no-word-head"), *of("--memory-recurrence", 2),
]  # fmt: skip

# through --model-overrides, when a trained model is looked at
OVERRIDES = [
    ("memory_tokens", 0), ("memory_tokens", 1), ("memory_tokens", 2),
    ("memory_lesion", "no-read"), ("memory_lesion", "zero-read"),
    ("memory_lesion_scope", "all"), ("memory_lesion_scope", "cross"),
    ("memory_lesion_slots", "0"), ("memory_lesion_slots", "0,2"), ("memory_lesion_layers", "0"),
    ("memory_lesion_layers", "1"), ("memory_decoder_tokens", 0), ("memory_decoder_tokens", 1),
    ("memory_static", 0), ("memory_static", 2), ("attention_sink", False),
    ("memory_recurrence", 0), ("memory_carry", "plain"), ("memory_init_std", 0.1),
    ("cache_length", 0), ("cache_length", 3), ("memory_no_word_head", True),
]  # fmt: skip


def combinations(pool: list[Flag]) -> st.SearchStrategy[list[Flag]]:
    """Some flags of a pool, each once."""
    return st.lists(st.sampled_from(pool), min_size=1, max_size=12, unique_by=lambda flag: flag[0])


def overrides() -> st.SearchStrategy[dict[str, object]]:
    """Often none."""
    some = st.lists(st.sampled_from(OVERRIDES), max_size=3, unique_by=lambda one: one[0])
    return st.one_of(st.just([]), some).map(dict)
