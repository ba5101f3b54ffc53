"""fairseq's scorer, which `fairseq-generate --score-reference` uses, for tokens that are given."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any


def score_batch(
    task: Any,
    models: list[Any],
    device: Any,
    sources: Sequence[Any],
    targets: Sequence[list[str]],
    prepare: Callable[[dict[str, Any]], None],
) -> list[list[float]]:
    """Return the log-probabilities of each target's tokens and of its end mark.

    Args:
        task: of translation, with its dictionaries; a token that is in none is the unknown word.
        models: whose probabilities are averaged.
        device: where they are.
        sources: the numbers of their tokens and of the end mark, a tensor each.
        targets: tokens without the end mark, without padding, one list for each source.
        prepare: what is done to the batch before it is scored.
    """
    import torch
    from fairseq.data import LanguagePairDataset
    from fairseq.utils import apply_to_sample

    words = task.target_dictionary
    of_targets = [torch.tensor([*map(words.index, target), words.eos()]) for target in targets]
    sides: list[Any] = []
    for rows, known in ((sources, task.source_dictionary), (of_targets, words)):
        sides += [rows, [len(row) for row in rows], known]
    dataset = LanguagePairDataset(
        *sides,
        left_pad_source=task.cfg.left_pad_source,
        left_pad_target=task.cfg.left_pad_target,
        shuffle=False,
    )
    sample = dataset.collater([dataset[index] for index in range(len(dataset))])
    sample = apply_to_sample(lambda tensor: tensor.to(device), sample)
    prepare(sample)
    scorer = task.build_generator(models, argparse.Namespace(score_reference=True))
    scored: list[list[float]] = [[] for _ in sources]
    for index, found in zip(
        sample["id"].tolist(), task.inference_step(scorer, models, sample), strict=True
    ):
        scored[index] = found[0]["positional_scores"].float().tolist()
    return scored
