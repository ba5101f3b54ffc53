"""Suite: memory: of the criterion, and of what beam search keeps between its steps."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batches
from .contestants import SIZES, STOCK, USUAL, memory_flags, memory_name
from .measure import MIB, progress
from .report import Report
from .suite import Suite

TOKENS, DIM = 4096, 512  # positions of a batch, channels
VOCABULARIES = (32_000, 250_000)
SENTENCES, BEAM, LENGTH = 32, 4, 200
CRITERIA = {
    STOCK: "label_smoothed_cross_entropy",
    "ours": "label_smoothed_cross_entropy_fused",
}


class _Projection(nn.Module):
    """A decoder that has its features already."""

    def __init__(self, words: int, like: Tensor) -> None:
        super().__init__()
        self.adaptive_softmax = None
        self.output_projection = nn.Linear(DIM, words, bias=False).to(like)

    def output_layer(self, features: Tensor) -> Tensor:
        """N x C to N x V."""
        return self.output_projection(features)


class _Model(nn.Module):
    """What a criterion knows of a model."""

    def __init__(self, words: int, like: Tensor) -> None:
        super().__init__()
        self.decoder = _Projection(words, like)
        self.features = nn.Parameter(torch.randn_like(like))

    def forward(self, features_only: bool = False) -> tuple[Tensor, Any]:
        """B x T x C or B x T x V."""
        x = self.features
        return (x if features_only else self.decoder.output_layer(x)), None

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """As fairseq's models do: in float32."""
        return torch.log_softmax(net_output[0].float(), dim=-1)

    def get_targets(self, sample: Any, net_output: Any) -> Tensor:
        """The words to predict, B x T."""
        return sample["target"]


def criterion_peak(name: str, words: int, device: str, dtype: torch.dtype, tokens: int) -> int:
    """Bytes that forward and backward of a criterion need beside the model and its gradients."""
    from fairseq.criterions import CRITERION_REGISTRY

    task = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: 1))
    made = CRITERION_REGISTRY[name](task, sentence_avg=False, label_smoothing=0.1)
    like = torch.empty(8, tokens // 8, DIM, device=device, dtype=dtype)
    model = _Model(words, like)
    target = torch.randint(4, words, like.shape[:2], device=device)
    sample = {"net_input": {}, "target": target, "ntokens": tokens}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def work() -> None:
        (made(model, sample)[0] * 128).backward()

    return peak(work, device)


def peak(work: Any, device: str) -> int:
    """The most bytes that torch's tensors hold while ``work`` is done, beyond those before."""
    if device == "cuda":
        work()  # what the libraries keep for themselves
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def cache_bytes(arch: str, size: str, device: str, dtype: torch.dtype, length: int) -> int:
    """Bytes of all that lives from one step of a beam search to the next, at the last step."""
    from .models import build_model

    words = Batches(2, 2, 1, 1000).dictionary()
    model = build_model(f"{USUAL} {SIZES[size].flags} {arch}", words).to(device, dtype).eval()
    if hasattr(model, "set_beam_size"):
        model.set_beam_size(BEAM)
    source = torch.randint(4, 1000, (SENTENCES, length), device=device)
    rows = torch.arange(SENTENCES, device=device).repeat_interleave(BEAM)
    state: dict[str, Any] = {}
    with torch.no_grad():
        encoder_out = model.encoder(source, torch.full((SENTENCES,), length, device=device))
        encoder_out = model.encoder.reorder_encoder_out(encoder_out, rows)
        tokens = torch.randint(4, 1000, (len(rows), length), device=device)
        for step in range(1, length + 1):
            model.decoder(tokens[:, :step], encoder_out, incremental_state=state)
    found: dict[int, int] = {}
    _collect([state, encoder_out], found)
    return sum(found.values())


def _collect(thing: Any, found: dict[int, int]) -> None:
    """Every storage once, by its address."""
    if isinstance(thing, Tensor):
        storage = thing.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(thing, dict):
        for part in thing.values():
            _collect(part, found)
    elif isinstance(thing, list | tuple):
        for part in thing:
            _collect(part, found)
    elif hasattr(thing, "__dict__"):
        _collect(vars(thing), found)


def add_options(parser: Any) -> None:
    """This suite has none of its own."""


def run(options: Namespace, report: Report) -> None:
    """Measure, and add both tables to the report."""
    half = {"fp16": torch.half, "bf16": torch.bfloat16}.get(options.dtype, torch.half)
    tokens = 64 if options.quick else TOKENS
    lines = [["vocabulary", "precision", *(f"{name}, MiB" for name in CRITERIA), "ratio"]]
    lines.append(["---:", "---", "---:", "---:", "---:"])
    for words in (1000,) if options.quick else VOCABULARIES:
        for dtype in (torch.float32, half):
            progress(f"memory: criterion, {words} words, {dtype}")
            sizes = [criterion_peak(c, words, options.device, dtype, tokens)
                     for c in CRITERIA.values()]  # fmt: skip
            cells = [f"{size / MIB:,.0f}" for size in sizes]
            kind = str(dtype).removeprefix("torch.")
            lines.append([f"{words:,}", kind, *cells, f"{sizes[0] / max(1, sizes[1]):.1f}"])
    report.section(f"### The criterion, {tokens} positions of {DIM} channels\n\n" + _table(lines))
    length = 8 if options.quick else LENGTH
    lines = [["size", "model", "MiB", f"× {STOCK}"], ["---", "---", "---:", "---:"]]
    for size in options.sizes or ["base"]:
        first = 0
        for name, arch in ((STOCK, "--arch transformer"),
                           (memory_name("shared", 10), memory_flags("shared", 10))):  # fmt: skip
            progress(f"memory: cache, {size}, {name}")
            found = cache_bytes(arch, size, options.device, half, length)
            first = first or found
            lines.append([size, name, f"{found / MIB:,.0f}", f"{found / first:.2f}"])
    report.section(
        f"### What beam search keeps: {SENTENCES} sentences of {length} words, beam {BEAM}, "
        f"after {length} steps, {str(half).removeprefix('torch.')}\n\n" + _table(lines)
    )
    report.note(
        "Criterion: torch's own accounting of forward and backward, without the parameters, the "
        "features and their gradients. Cache: the storages that live on from step to step, the "
        "encoder's output among them."
    )


def _table(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


SUITE = Suite("memory", "Memory: the criterion's, and the beam search's", add_options, run)
