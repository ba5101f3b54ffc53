"""`fairseq-mem context`: how much a model of documents uses what it carries.

Every sentence of a split is scored three times: with what its document hands on, with nothing, and
with what a random other document hands on at the same place. The last is the control that counts:
a model that always carries memory is out of its element without any, and loses by that alone. The
difference of the losses is what is called conditional cross-mutual information (Fernandes et al.
2021, "Measuring and Increasing Context Usage in Context-Aware Machine Translation").
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..streaming.documents import DocumentPairs, Documents
from ..tasks.document_translation import DocumentTranslationTask
from .documents import context_of, hands_on
from .loading import load_split, load_translation_model

WAYS = ("carried", "reset", "other")
PLACES = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 8), (9, 16), (17, None))  # in a document, from 1
SAMPLES = 1000  # of documents, for the intervals


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "context",
        help="measure how much a model of documents uses what it carries",
        description="Scores the references of a split with what each document hands on, with "
        "nothing, and with what a random other document hands on: loss by the place in the "
        "document, and the differences with 95 % intervals over documents. The random document is "
        "the control that counts.",
        epilog="Losses are negative log-probabilities of a target token in nats, end marks "
        "counted. A positive difference says that what is carried helps.",
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint of --task document_translation")
    parser.add_argument("data", metavar="DATA_BIN", help="its binarised data, with documents")
    parser.add_argument("--split", default="test", metavar="SPLIT", help="default: test")
    parser.add_argument(
        "--max-tokens", type=int, default=4000, metavar="N", help="of a batch (default: 4000)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the random documents (default: 1)"
    )
    parser.add_argument("--out", metavar="FILE", help="write all numbers there, as JSON")
    parser.add_argument("--cpu", action="store_true", help="not on the GPU")
    return parser


class Row(NamedTuple):
    """What is told of the sentences at some places; losses and differences in nats a token."""

    places: str
    sentences: int
    losses: dict[str, float]
    differences: dict[str, tuple[float, float, float]]  # to "reset", "other"; and its interval


def main(args: argparse.Namespace) -> None:
    """Score, print a table."""
    if args.max_tokens < 1:
        raise UserError(f"--max-tokens {args.max_tokens}: give a number above 0")
    model, _, task, data = load_translation_model(Path(args.model), Path(args.data))
    if not hands_on(model) and context_of(task) == 0:
        carries = f"{args.model} carries nothing from sentence to sentence"
        if not isinstance(task, DocumentTranslationTask):
            raise UserError(
                f"{carries}; give a model of --task document_translation with --memory-recurrence "
                "or --context-sentences, or without both for comparison"
            )
        print(f"fairseq-mem context: {carries}: its losses are the same thrice", file=sys.stderr)
    if torch.cuda.is_available() and not args.cpu:
        model.cuda()
    model.eval()
    dataset = load_split(task, args.split, data)
    if dataset.tgt is None:
        raise UserError(f"{args.split} of {data} has no target side; give --split")
    if sum(dataset.documents.lengths > 1) < 2:
        raise UserError(
            f"{args.split} of {data} has fewer than two documents of two sentences; see the "
            f"documents file {data / (args.split + '.documents')}"
        )
    losses, tokens = score(model, task, dataset, args)
    rows = list(summed_up(dataset.documents, losses, tokens))
    print(table(rows))
    if args.out:
        from ..files import write_text

        told = {
            "model": args.model, "split": args.split, "seed": args.seed,
            "documents": len(dataset.documents), "rows": [row._asdict() for row in rows],
        }  # fmt: skip
        write_text(Path(args.out), json.dumps(told, indent=1) + "\n")


def others(documents: Documents, seed: int) -> np.ndarray:
    """For every sentence one of a random other document, at the same place or, if that is short,
    at its end.
    """  # fmt: skip
    generator = np.random.default_rng(seed)
    choice = np.flatnonzero(documents.lengths > 1)
    as_if = documents.first.copy()
    for number in range(len(documents)):
        start, stop = documents.starts[number], documents.starts[number + 1]
        long_enough = choice[(documents.lengths[choice] >= stop - start) & (choice != number)]
        among = long_enough if len(long_enough) else choice[choice != number]
        other = int(generator.choice(among))
        places = np.minimum(np.arange(stop - start), documents.lengths[other] - 1)
        as_if[start:stop] = documents.starts[other] + places
    return as_if


def score(
    model: Any, task: Any, dataset: DocumentPairs, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every sentence's loss in each way, and its target tokens; 0 for one that is too long."""
    documents = dataset.documents
    as_if = {
        "carried": np.arange(documents.sentences),
        "reset": documents.first,
        "other": others(documents, args.seed),
    }
    losses = {way: np.zeros(documents.sentences) for way in WAYS}
    tokens = np.zeros(documents.sentences)
    longest = task.longest, model.max_decoder_positions()
    indices, too_long = dataset.filter_indices_by_size(np.arange(len(dataset)), longest)
    if len(too_long):
        print(
            f"fairseq-mem context: {len(too_long)} sentences are too long for the model and do "
            "not count",
            file=sys.stderr,
        )
    most = max((dataset.dataset.num_tokens(int(index)) for index in indices), default=0)
    if most > args.max_tokens:
        raise UserError(f"--max-tokens {args.max_tokens} is less than the longest sentence: {most}")
    indices = indices[np.argsort(dataset.dataset.src_sizes[indices], kind="stable")]
    pad = task.target_dictionary.pad()
    device = next(model.parameters()).device
    for batch in dataset.batch_by_size(indices, max_tokens=args.max_tokens):
        for way in WAYS:
            sample = dataset.collater([
                {**dataset[number], "source": in_context(dataset, number, as_if[way], task.longest)}
                for number in batch
            ])  # fmt: skip
            inputs = {name: value.to(device) for name, value in sample["net_input"].items()}
            numbers = sample["id"]
            if hands_on(model):
                remembered = task.remembered(model, args.split)
                begins = remembered.before(torch.from_numpy(as_if[way])[numbers])
                inputs["memory"] = {model.encoder: begins}
            found = of_sentences(model, inputs, sample["target"].to(device), pad)
            losses[way][numbers.numpy()] = found.cpu().numpy()
        tokens[numbers.numpy()] = sample["target"].ne(pad).sum(1).numpy()
    return losses, tokens


@torch.no_grad()
def of_sentences(model: Any, inputs: dict[str, Any], target: Tensor, pad: int) -> Tensor:
    """The loss of each sentence: B, in nats."""
    logits = model.get_normalized_probs(model(**inputs), log_probs=True).float()
    of_words = logits.gather(2, target.unsqueeze(2)).squeeze(2)
    return -of_words.masked_fill(target.eq(pad), 0).double().sum(1)


def in_context(dataset: DocumentPairs, number: int, as_if: np.ndarray, longest: int) -> Tensor:
    """A source behind the sentences that stand in front of another one."""
    source = dataset.dataset.src
    if not hasattr(source, "begins"):  # it has none in front
        tokens: Tensor = source[number]
        return tokens
    other = int(as_if[number])
    parts = [source.dataset[number]]
    for index in range(other - 1, int(source.begins[other]) - 1, -1):
        if sum(map(len, parts)) + len(source.dataset[index]) > longest:
            break
        parts.insert(0, source.dataset[index])
    return torch.cat(parts)


def summed_up(
    documents: Documents, losses: dict[str, np.ndarray], tokens: np.ndarray
) -> Iterator[Row]:
    """By the place in the document, behind the first, and all."""
    places = np.arange(documents.sentences) - documents.first + 1
    groups = [
        (f"{first}" if first == last else f"{first}-{last}" if last else f"{first} on",
         (places >= first) & (places <= (last or places.max())))
        for first, last in PLACES
    ]  # fmt: skip
    for name, chosen in [*groups, ("2 on", places >= 2), ("all", places >= 1)]:
        chosen = chosen & (tokens > 0)
        if chosen.any():
            yield _row(name, documents, chosen, losses, tokens)


def _row(
    name: str, documents: Documents, chosen: np.ndarray, losses: dict[str, np.ndarray],
    tokens: np.ndarray,
) -> Row:  # fmt: skip
    def by_document(values: np.ndarray) -> np.ndarray:
        sums: np.ndarray = np.add.reduceat(np.where(chosen, values, 0.0), documents.starts[:-1])
        return sums

    words = by_document(tokens)
    # the same samples for every row
    drawn = np.random.default_rng(1).integers(0, len(documents), (SAMPLES, len(documents)))
    counted = words[drawn].sum(1)
    differences = {}
    for way in WAYS[1:]:
        gained = by_document(losses[way] - losses["carried"])
        sampled = (gained[drawn].sum(1) / np.maximum(counted, 1))[counted > 0]
        low, high = np.percentile(sampled, [2.5, 97.5])
        differences[way] = (float(gained.sum() / words.sum()), float(low), float(high))
    means = {way: float(by_document(losses[way]).sum() / words.sum()) for way in WAYS}
    return Row(name, int(chosen.sum()), means, differences)


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| sentence | of them | carried | reset | other document | reset - carried "
        "| other - carried |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.places, f"{row.sentences:,}"]
        cells += [f"{row.losses[way]:.4f}" for way in WAYS]
        for way in WAYS[1:]:
            mean, low, high = row.differences[way]
            cells.append(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
