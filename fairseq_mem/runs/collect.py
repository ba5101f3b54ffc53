"""Which runs there are, which may be compared, and which are missing."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError
from .folder import DIGESTS, Run, read_run
from .metrics import metric_of

Group = tuple[str, str, int]  # data, size, updates: runs that agree in them may be compared
Models = dict[str, dict[int, Run]]  # the finished runs of a group, by model and seed


def find_runs(roots: Iterable[Path]) -> list[Run]:
    """The runs below some folders, each once, in the order of their names.

    Raises:
        UserError: a folder is missing, or there is no run in any.
    """
    found: dict[Path, Run] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}; give the folder with the runs")
        base = root.resolve()
        for folder, _, files in os.walk(base):
            if "settings.json" in files or "result.json" in files:
                path = Path(folder)
                name = os.fsencode(base.name / path.relative_to(base)).decode("utf-8", "replace")
                if path not in found:
                    found[path] = _with_known_metrics(read_run(path, name))
    if not found:
        raise UserError(
            f"no run in {', '.join(map(str, roots))}: no folder there has a settings.json"
        )
    return sorted(found.values(), key=lambda run: natural(run.name))


def _with_known_metrics(run: Run) -> Run:
    """The run; its ``reason`` is set if a metric that is known means something else in it."""
    for name, metric in run.result.get("metrics", {}).items():
        if metric_of(name).better not in (None, metric["better"]):
            run.reason = f"result.json says that a {metric['better']} {name} is better"
            break
    return run


def natural(text: str) -> tuple[Any, ...]:
    """A sort key by which mem-5 comes before mem-10."""
    return tuple(
        (0, len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    )


def runs_not_compared(
    runs: list[Run], models: Iterable[str] = (), seeds: Iterable[int] = ()
) -> list[list[str]]:
    """Rows (run, model, seed, why) for what is not in the tables.

    Missing is, in each group, a model's run of a seed that another model has, and what there is no
    run of among the ``models`` and ``seeds`` that are expected.
    """
    rows = []
    for run in runs:
        if run.reason:
            names = [str(run.settings.get(key, "?")) for key in ("model", "seed")]
            rows.append([run.name, *names, run.reason])
    readable = [run for run in runs if run.settings]
    for group in sorted({run.group for run in readable}, key=_group_order):
        of_group = [run for run in readable if run.group == group]
        for model in sorted({run.model for run in of_group} | set(models), key=natural):
            begun = {run.seed for run in of_group if run.model == model}
            for seed in sorted(({run.seed for run in of_group} | set(seeds)) - begun):
                others = sorted({run.model for run in of_group if run.seed == seed}, key=natural)
                why = f"missing: no run of {title_of(group)}"
                why += f"; there is one of {', '.join(others)}" if others else ""
                rows.append(["–", model, str(seed), why])
    return rows


def by_group(runs: list[Run]) -> dict[Group, Models]:
    """The finished runs: by group, model and seed.

    Raises:
        UserError: two are of one model and seed, or of different data under one name, or a metric
            means two things in one group.
    """
    groups: dict[Group, Models] = {}
    for run in runs:
        if run.reason:
            continue
        seeds = groups.setdefault(run.group, {}).setdefault(run.model, {})
        if run.seed in seeds:
            raise UserError(
                f"{seeds[run.seed].name} and {run.name} are both {run.model} with seed {run.seed} "
                f"({title_of(run.group)}); leave one out"
            )
        seeds[run.seed] = run
    for models in groups.values():
        _check_comparable(all_runs(models))
    return dict(sorted(groups.items(), key=lambda item: _group_order(item[0])))


def _check_comparable(runs: list[Run]) -> None:
    """Raises UserError: two runs of a group are of different data, or scored in different ways."""
    first_with: dict[str, Run] = {}  # the first run with a metric
    first_of: dict[str, Run] = {}  # the first run that says which data it was made with
    for run in runs:
        for key in DIGESTS:
            if digest := run.settings.get(key):
                other = first_of.setdefault(key, run)
                if digest != other.settings[key]:
                    raise UserError(
                        f"{other.name} and {run.name} were trained on different data of the "
                        f"name {run.settings['data']!r} ({key}); give data names of their "
                        "own, or leave one out"
                    )
        for name, metric in run.result["metrics"].items():
            other = first_with.setdefault(name, run)
            signatures = [signature_of(scored, name) for scored in (other, run)]
            bare = [re.sub(r"\|?version:[^|]*", "", text) for text in signatures]
            better = other.result["metrics"][name]["better"]
            if bare[0] != bare[1] or metric["better"] != better:
                raise UserError(
                    f"{name} of {other.name} ({signatures[0] or 'no signature'}, {better}) and "
                    f"of {run.name} ({signatures[1] or 'no signature'}, {metric['better']} is "
                    "better) cannot be compared; score them in one way"
                )


def all_runs(models: Models) -> list[Run]:
    """The runs of a group, in the order in which they were found."""
    return [run for seeds in models.values() for run in seeds.values()]


def signature_of(run: Run, metric: str) -> str:
    """How a metric was computed, as sacreBLEU says it; empty where nothing does."""
    return str(run.result.get("signatures", {}).get(metric, ""))


def label_of(seeds: dict[int, Run]) -> str:
    """A model's name in tables."""
    run = seeds[min(seeds)]
    return str(run.settings.get("label") or run.model)


def title_of(group: Group) -> str:
    """A group's name in headings."""
    data, size, updates = group
    return f"{data}, {size}, {updates:,} updates"


def _group_order(group: Group) -> tuple[Any, ...]:
    return natural(group[0]), natural(group[1]), group[2]
