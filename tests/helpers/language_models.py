"""Options of a tiny `mem_transformer_lm`, and what one predicts."""

import torch

TINY_LM = (
    "--decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 "
    "--decoder-attention-heads 2"
).split()
WIDTHS = "--decoder-input-dim 16 --decoder-output-dim 16".split()


def normalized(model, out):
    """In the precision of the model: fairseq's own softmax is in float32."""
    if model.decoder.adaptive_softmax is None:
        return out.log_softmax(dim=-1)
    with torch.no_grad():  # it writes into its own results
        return model.decoder.adaptive_softmax.get_log_prob(out, None)


def scores(model, tokens, **kwargs):
    """Log-probabilities of the next word, B x T x V."""
    return normalized(model, model(tokens, **kwargs)[0])
