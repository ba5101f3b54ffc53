"""Two workers without a GPU, in processes of their own, that train small models with fairseq."""

from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from fairseq.logging import metrics

UPDATES = 2
FLAGS = "--dropout 0 --clip-norm 1 --lr 1e-3 --lr-scheduler fixed --adam-eps 1e-4"


def samples(made: Any) -> list[dict[str, Any]]:
    """Two batches: the model's own, and one of other words."""
    first = next(made.samples)
    if "position" in first["net_input"]:
        first["net_input"]["position"] = 0  # every batch begins a text
    return [first, _shift(first)]


def _shift(thing: Any, by: int = 7, words: int = 400) -> Any:
    if isinstance(thing, dict):
        keys = ("net_input", "src_tokens", "prev_output_tokens", "target")
        return {k: _shift(v) if k in keys else v for k, v in thing.items()}
    return torch.where(thing >= 4, (thing - 4 + by) % (words - 4) + 4, thing)


def trained(arch: str, backend: str | None, rank: int, meeting: str) -> dict[str, Any]:
    """The parameters after some updates; alone (no backend) with as many batches an update."""
    from benchmarks import architectures

    torch.manual_seed(1)
    where = "--cpu"
    if backend is not None:
        where += (
            f" --distributed-world-size 2 --distributed-rank {rank} --distributed-no-spawn "
            f"--distributed-backend gloo --distributed-init-method {meeting} "
            f"--ddp-backend {backend}"
        )
    made = architectures.build(arch, where, FLAGS)
    both = samples(made)
    with metrics.aggregate(new_root=True):
        for _ in range(UPDATES):
            made.trainer.train_step(both if backend is None else [both[rank]])
    found = made.trainer.model.named_parameters()
    return {name.replace("module.", ""): p.detach() for name, p in found}  # unwrapped


def _rank(rank: int, archs: list[str], backend: str, folder: str) -> None:
    meeting = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)
    found = {arch: trained(arch, backend, rank, meeting) for arch in archs}
    torch.save(found, f"{folder}/{backend}-{rank}.pt")
    torch.distributed.destroy_process_group()


def two_ranks(archs: list[str], backend: str, folder: Path) -> list[dict[str, dict[str, Any]]]:
    """Each architecture's parameters, of each of the two workers."""
    torch.multiprocessing.spawn(_rank, (archs, backend, str(folder)), nprocs=2)
    return [torch.load(folder / f"{backend}-{rank}.pt") for rank in range(2)]
