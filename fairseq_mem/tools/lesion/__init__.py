"""`fairseq-mem lesion`: what a trained model loses with fewer memory slots, and with lesions.

The paper's lesion experiment. Every setting goes through the doors that fairseq's own commands
use (`--model-overrides`, the generator), so the numbers are those of `fairseq-generate` with
`sacrebleu`, and of `fairseq-validate`.
"""

from .command import add_parser, main

__all__ = ["add_parser", "main"]
