"""Suite: a whole update as a user runs it, target tokens a second."""

import importlib.util
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq_mem_text.arguments import positive

from .batches import REAL, Batches, BinarisedBatches, Samples
from .contestants import SIZES, STOCK, USUAL, X_TRANSFORMERS, Size, chosen, training_flags
from .measure import Work, Workload, interleave
from .report import Report
from .suite import Suite

UNIT = "target tokens"
REFERENCES = (STOCK, X_TRANSFORMERS)
TOGETHER = 4  # contestants beside them; each is a process with a model of its own


def updates(trainer: Any, samples: list[dict[str, Any]]) -> Callable[[], Work]:
    """Make what takes an update on each of the batches."""

    def run() -> Work:
        for sample in samples:
            trainer.train_step([sample])
        return Work(sum(sample["ntokens"] for sample in samples))

    return run


@dataclass(frozen=True)
class FairseqTraining:
    """fairseq's trainer over the batches: forward, backward, clipping, update."""

    flags: str
    batches: Samples
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build model, criterion, optimizer and batches."""
        from .models import build_trainer

        trainer = build_trainer(self.flags, self.batches.dictionary())
        return updates(trainer, self.batches.samples())


@dataclass(frozen=True)
class XTransformersTraining:
    """x-transformers' encoder-decoder of the same size, with its flash attention.

    What fairseq does is done here too: the same dropout (after the embeddings and every
    sub-layer), label smoothing, clipping, Adam with the same settings (torch's, fused).
    """

    size: Size
    memory: int
    batches: Samples
    dtype: str
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Build model, optimizer and batches."""
        from x_transformers import XTransformer

        words = self.batches.dictionary()
        samples = self.batches.samples()
        longest = max(
            max(s["net_input"]["src_tokens"].size(1), s["target"].size(1)) for s in samples
        )
        each: dict[str, Any] = dict(
            num_tokens=len(words),
            max_seq_len=longest,
            depth=self.size.layers,
            heads=self.size.heads,
            attn_dim_head=self.size.dim // self.size.heads,
            ff_mult=self.size.ffn / self.size.dim,
            attn_flash=True,
            emb_dropout=self.size.dropout,
            attn_sublayer_dropout=self.size.dropout,
            ff_sublayer_dropout=self.size.dropout,
        )
        sides = {f"{side}_{key}": v for side in ("enc", "dec") for key, v in each.items()}
        model = XTransformer(
            dim=self.size.dim,
            tie_token_emb=True,
            pad_value=words.pad(),
            enc_num_memory_tokens=self.memory,
            **sides,
        )
        decoder = model.decoder.net
        # fairseq's --share-all-embeddings: the output projection is the embedding, too
        decoder.to_logits = torch.nn.Linear(self.size.dim, len(words), bias=False)
        decoder.to_logits.weight = decoder.token_emb.emb.weight
        torch.nn.init.normal_(decoder.to_logits.weight, std=self.size.dim**-0.5)
        model.to(device).train()
        optimizer = torch.optim.Adam(
            model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-8, weight_decay=1e-4, fused=True
        )
        half = {"float32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[self.dtype]
        scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)

        def update(sample: dict[str, Any]) -> None:
            source = sample["net_input"]["src_tokens"].to(device)
            previous = sample["net_input"]["prev_output_tokens"].to(device)
            target = sample["target"].to(device)
            kept = source.ne(words.pad())  # B x T, True at text
            with torch.autocast(device, half, enabled=half is not None):
                encoded = model.encoder(source, mask=kept, return_embeddings=True)
                logits = decoder(previous, context=encoded, context_mask=kept)
                loss = F.cross_entropy(
                    logits.transpose(1, 2), target, ignore_index=words.pad(), label_smoothing=0.1
                )
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loss.item()  # fairseq's trainer logs the loss of every update, too

        def run() -> Work:
            for sample in samples:
                update(sample)
            return Work(sum(sample["ntokens"] for sample in samples))

        return run


def contestants(size: Size, batches: Samples, device: str, dtype: str) -> dict[str, Workload]:
    """All of them, by name."""
    from .models import device_flags

    where = device_flags(device, dtype)
    found: dict[str, Workload] = {
        name: FairseqTraining(f"{USUAL} {size.flags} {where} {flags}", batches)
        for name, flags in training_flags().items()
    }
    if importlib.util.find_spec("x_transformers"):
        found[X_TRANSFORMERS] = XTransformersTraining(size, 10, batches, dtype)
    return found


def groups(workloads: dict[str, Workload]) -> Iterator[dict[str, Workload]]:
    """So many contestants at a time as fit into memory, the references among them each time."""
    references = {name: workloads[name] for name in REFERENCES if name in workloads}
    others = [name for name in workloads if name not in references]
    for start in range(0, max(1, len(others)), TOGETHER):
        part = {name: workloads[name] for name in others[start : start + TOGETHER]}
        yield {**references, **part}


def add_options(parser: Any) -> None:
    """This suite's options."""
    parser.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="as --max-tokens (default: 3000 of real text, 8192 otherwise)",
    )
    parser.add_argument(
        "--batches",
        type=positive,
        default=1,
        metavar="N",
        help="updates a round, with real lengths (default 1; otherwise always 1)",
    )
    parser.add_argument(
        "--vocabulary",
        type=positive,
        default=10_000,
        metavar="N",
        help="entries of the joint dictionary (default 10000)",
    )
    parser.add_argument("--text", metavar="DATA_BIN",
                        help="real batches from this binarised data with a joint dictionary, "
                             "instead of random words of recorded lengths")  # fmt: skip


def run(options: Namespace, report: Report) -> None:
    """Measure every cell asked for."""
    cells = [
        (size, length)
        for size in options.sizes or ["small", "iwslt"]
        for length in options.lengths or [REAL]
    ]
    for size, length in cells:
        tokens = options.batch_tokens or (3000 if length == REAL else 8192)
        count = options.batches if length == REAL else 1
        batches: Samples = Batches(length, tokens, count, options.vocabulary)
        if options.text and length == REAL:
            batches = BinarisedBatches(options.text, tokens, count)
        workloads = contestants(SIZES[size], batches, options.device, options.dtype)
        for number, group in enumerate(groups(chosen(workloads, options.contestants)), 1):
            label = f"training, {size}, {length}, run {number}:"
            results = interleave(group, options.device, options.rounds, label=label)
            cell = {"size": size, "length": length, "run": number}
            report.add(cell, UNIT, results, REFERENCES)
    if not importlib.util.find_spec("x_transformers"):
        report.note("x-transformers is not installed (`pip install x-transformers`): left out.")
    report.note(
        "fairseq's own Trainer does the update for fairseq and for ours, with `" + USUAL + "`."
    )


SUITE = Suite("training", "Training: a whole update", add_options, run)
