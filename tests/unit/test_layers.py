"""Imports run one way: from the commands down to the errors; no circle, nothing from outside."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers.commands import ROOT

# From the top down: what stands in a line imports only what stands in lines below it.
LAYERS = [
    "__main__",
    "tools",
    "runs",
    "fairseq_mem",  # the package itself: it registers what is below
    "models tasks",
    "sentence_encoder options",
    "encoder decoder",
    "updates",
    "layers streaming option_conflicts",
    "attention",
    "training memory files",
    "checkpoints command_line dictionaries option_kinds adaptive_bands",
    "compat literals wordpiece precision",
    "errors",
    "fairseq_mem_serve",
    "fairseq_mem_text",
]
RANKS = {name: rank for rank, line in enumerate(reversed(LAYERS)) for name in line.split()}
PACKAGES = {"fairseq_mem": ROOT, "fairseq_mem_serve": ROOT / "serve"}
PACKAGES["fairseq_mem_text"] = ROOT / "serve"


def modules() -> dict[str, Path]:
    """Every module of the packages by its name."""
    found = {}
    for package, parent in PACKAGES.items():
        for path in (parent / package).rglob("*.py"):
            parts = path.relative_to(parent).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The modules that a module imports, of ours or the first part of another's name."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


IMPORTS = {name: sorted(set(imported(name)) - {name}) for name in MODULES}


def room(name: str) -> str:
    """The folder or file of `fairseq_mem` that a module is in; another package is one room."""
    package, *rest = name.split(".")
    return rest[0] if package == "fairseq_mem" and rest else package


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_points_upward(name):
    for other in IMPORTS[name]:
        if other in MODULES and room(other) != room(name):
            assert RANKS[room(name)] > RANKS[room(other)], f"{name} imports {other}"


def test_there_is_no_circle():
    """Modules depend on each other in some order, in which they can be read."""
    graph = {name: [other for other in IMPORTS[name] if other in MODULES] for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # a circle is an error that names it
    assert len(order) == len(MODULES) > 60


def test_every_layer_is_there():
    rooms = {room(name) for name in MODULES}
    assert rooms == RANKS.keys()


def test_nothing_comes_from_around_the_packages():
    around = {"examples", "benchmarks", "tests", "scripts", "helpers"}
    heavy = {"fairseq", "fairseq_cli", "torch", "fairseq_mem"}
    for name in MODULES:
        first = {other.partition(".")[0] for other in IMPORTS[name]}
        assert not first & around, name
        if not name.startswith("fairseq_mem.") and name != "fairseq_mem":
            assert not first & heavy, name
