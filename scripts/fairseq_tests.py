"""Runs fairseq's own tests with our models in the place of fairseq's.

    git clone https://github.com/facebookresearch/fairseq
    python scripts/fairseq_tests.py fairseq            compares, prints the table (10 minutes)
    python scripts/fairseq_tests.py fairseq --write    and puts it into docs/reference

The tests are those of fairseq's main branch, which fairseq-fixed was made from. (Its source
distribution has the same test files, but not `tests/utils.py`, without which most do not run.)
They are copied and run against the fairseq that is installed, three times at once: with 5 memory
tokens, with 0, and with fairseq's own models. Names change in the tests' process alone:
`transformer` and its presets are a `mem_transformer`, `transformer_lm` a `mem_transformer_lm`,
`roberta` a `mem_roberta`. Ends with status 1 if a test fails that fairseq's own models pass, and no
reason is known (REASONS), or if one of those passes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "fairseq-tests.md"
BEGIN = "<!-- written by scripts/fairseq_tests.py -->\n"
END = "<!-- end -->"
RUNS = {"5": "5 memory tokens", "0": "0 memory tokens", "fairseq": "fairseq's own model"}
TESTS = [  # of the Transformer, language model, RoBERTa, generator and trainer
    f"tests/test_{name}.py"
    for name in (
        "transformer", "roberta", "export", "inference_dropout", "sequence_generator",
        "sequence_scorer", "lm_context_window", "checkpoint_utils", "online_backtranslation",
        "valid_subset_checks", "train", "binaries",
    )
]  # fmt: skip

# Of other models than ours, by what their names have in them, and those with fairseq's `fconv`.
OTHERS = [
    "fconv", "lstm", "laser", "lightconv", "dynamicconv", "linformer", "insertion",
    "nonautoregressive", "cmlm", "pointer", "multilingual", "latent", "alignment", "optimizers",
    "bptt", "legacy", "pretrained_masked",
]  # fmt: skip
OF_FCONV = [
    f"tests/test_binaries.py::TestTranslation::test_{name}"
    for name in ("raw", "update_freq", "max_positions", "generation", "eval_bleu")
]

# Tests that cannot pass with memory, and why; and with our models at all.
_SCRIPT = "TorchScript is not supported with memory tokens"
_JIT = "tests/test_sequence_generator.py::TestJitSequenceGenerator"
_CROSS = "`--cross-self-attention` is refused: memory has no place of its own there"
_CHECKPOINTS = "tests/test_checkpoint_utils.py::TestCheckpointUtils"
_ENSEMBLE = (
    "refused on purpose: it loads a model with another data's dictionary, in another order of words"
)
_SHAPE = "asserts that the encoder gives a state for each source token; memory stands in front"
CANNOT = {
    "tests/test_export.py::TestExportModels::test_export_transformer": _SCRIPT,
    "tests/test_export.py::TestExportModels::test_export_transformer_no_token_pos_emb": _SCRIPT,
    "tests/test_roberta.py::RobertaTest::test_roberta_batching": _SHAPE,
    f"{_JIT}::test_export_transformer": _SCRIPT,
    f"{_JIT}::test_export_ensemble_model": _SCRIPT,
    "tests/test_binaries.py::TestTranslation::test_transformer_cross_self_attention": _CROSS,
}
CANNOT_EVEN_WITHOUT = {
    f"{_CHECKPOINTS}::test_load_model_ensemble_and_task": _ENSEMBLE,
}
REASONS = {**CANNOT, **CANNOT_EVEN_WITHOUT}


class Replacement:
    """A plugin of pytest: our models under fairseq's names, and what every test did.

    Args:
        tokens: the number of memory tokens, or None: fairseq's own models stay.
    """

    def __init__(self, tokens: int | None) -> None:
        self.built: set[str] = set()
        self.found: dict[str, dict[str, Any]] = {}
        # Only now: the parent needs none of it.
        from fairseq.models import roberta, transformer, transformer_lm

        from fairseq_mem import MemRobertaModel, MemTransformerLanguageModel, MemTransformerModel

        for modules, name, model, ours in (
            ((transformer, transformer.transformer_legacy), "TransformerModel",
             "transformer", MemTransformerModel),
            ((transformer_lm,), "TransformerLanguageModel",
             "transformer_lm", MemTransformerLanguageModel),
            # Not in the package too, where ours looks for the model that it extends.
            ((roberta.model,), "RobertaModel", "roberta", MemRobertaModel),
        ):  # fmt: skip
            stock = getattr(modules[0], name)
            if tokens is None:
                self._watch(stock, model)
            else:
                self._replace(modules, name, model, self._with_memory(ours, model, tokens))

    def _watch(self, stock: type, model: str) -> None:
        """Note when fairseq's own model is built."""
        build = stock.__dict__["build_model"].__func__

        def build_model(cls: type, args: Any, task: Any) -> Any:
            if cls is stock:
                self.built.add(model)
            return build(cls, args, task)

        stock.build_model = classmethod(build_model)  # type: ignore[attr-defined]

    def _with_memory(self, ours: type, model: str, tokens: int) -> type:
        """Our model, which has so many tokens if nobody says how many."""

        def build_model(cls: type, args: Any, task: Any) -> Any:
            self.built.add(model)
            args.memory_tokens = getattr(args, "memory_tokens", tokens)
            return super(Ours, cls).build_model(args, task)  # type: ignore[arg-type, misc]

        Ours = type(ours.__name__, (ours,), {"build_model": classmethod(build_model)})
        return Ours

    def _replace(self, modules: tuple, name: str, model: str, ours: type) -> None:
        """Put our model where fairseq and its tests look for the stock one."""
        from fairseq import models

        models.MODEL_REGISTRY[model] = ours
        models.MODEL_DATACLASS_REGISTRY.pop(model, None)  # ours are built from plain options
        for preset in models.ARCH_MODEL_INV_REGISTRY[model]:
            models.ARCH_MODEL_REGISTRY[preset] = ours
        for module in modules:
            setattr(module, name, ours)

    def pytest_runtest_setup(self, item: Any) -> None:
        """A test begins: it builds its own models."""
        self.built.clear()
        for value in vars(item.module).values():
            getattr(value, "cache_clear", lambda: None)()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test's part ended."""
        if report.when == "call" or report.outcome != "passed":
            why = str(report.longrepr).strip().splitlines()[-1] if report.longrepr else ""
            self.found[report.nodeid] = {
                "outcome": report.outcome, "built": sorted(self.built), "why": why,
            }  # fmt: skip


def run_here(tokens: int | None, record: Path, tests: list[str]) -> int:
    """Run the tests of this folder and write what they did."""
    import pytest

    plugin = Replacement(tokens)
    status = pytest.main(
        ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:warnings",
         "-k", " and ".join(f"not {name}" for name in OTHERS),
         *(f"--deselect={test}" for test in OF_FCONV), *tests],
        plugins=[plugin],
    )  # fmt: skip
    record.write_text(json.dumps(plugin.found, indent=1), encoding="utf-8")
    return int(status)


def run_in_a_process(run: str, folder: Path, tests: list[str]) -> dict[str, dict[str, Any]]:
    """Run tests with a kind of model, in a process of their own; returns what they did."""
    record = folder / f"{run}.json"
    path = os.pathsep.join([str(ROOT), str(ROOT / "serve"), os.environ.get("PYTHONPATH", "")])
    with (folder / f"{run}.log").open("w") as log:
        subprocess.run(
            [sys.executable, __file__, str(folder), "--run", run, "--tests", *tests],
            cwd=folder, env={**os.environ, "PYTHONPATH": path.strip(os.pathsep)},
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if not record.exists():
        sys.exit(f"fairseq_tests: the tests did not run, see {folder}/{run}.log")
    return json.loads(record.read_text(encoding="utf-8"))


def table(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """What the tests that build our models did, as Markdown."""
    from fairseq_mem.runs.tables import markdown

    rows = []
    for test in sorted(found["5"]):
        results = [found[run].get(test, {"outcome": "?"})["outcome"] for run in RUNS]
        models = ", ".join(f"`{name}`" for name in found["5"][test]["built"])
        rows.append([f"`{test.removeprefix('tests/')}`", models, *results, REASONS.get(test, "")])
    lines = markdown(["test", "model", *RUNS.values(), "why not"], rows, left=6)
    counts = [Counter(result["outcome"] for result in found[run].values()) for run in RUNS]
    says = [
        f"{name}: {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped"
        for name, count in zip(RUNS.values(), counts)
    ]
    return [f"{'; '.join(says)}.", "", *lines]


def unexplained(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Tests that fail with our models alone without a known reason, and reasons without need."""
    wrong = []
    for test, stock in found["fairseq"].items():
        for run in ("5", "0"):
            result = found[run].get(test, {"outcome": "did not run", "why": ""})
            known = test in (REASONS if run == "5" else CANNOT_EVEN_WITHOUT)
            if stock["outcome"] == "passed" and (result["outcome"] != "passed") != known:
                wrong.append(f"{test} with {RUNS[run]}: {result['outcome']} {result['why']}")
    return wrong


def main() -> int:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of fairseq's main branch")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--keep", type=Path, help="a folder for the logs (default: none kept)")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--tests", nargs="*", default=TESTS, help="these alone")
    args = parser.parse_args()
    if args.run:
        tokens = None if args.run == "fairseq" else int(args.run)
        return run_here(tokens, args.checkout / f"{args.run}.json", args.tests)
    if not (args.checkout / "tests" / "utils.py").exists():
        parser.error(f"{args.checkout} has no tests/utils.py: it is no checkout of fairseq")

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        # Copied, so that fairseq is the one installed and not the checkout's.
        for part in ("tests", "examples"):  # the examples have links to what is not there
            shutil.copytree(args.checkout / part, folder / part, symlinks=True, dirs_exist_ok=True)
        with ThreadPoolExecutor() as pool:
            runs = pool.map(lambda run: run_in_a_process(run, folder, args.tests), RUNS)
            everything = dict(zip(RUNS, runs))
    ours = {test for run in everything.values() for test in run if run[test]["built"]}
    found = {run: {t: r for t, r in ran.items() if t in ours} for run, ran in everything.items()}
    lines = table(found)
    others = Counter(r["outcome"] for t, r in everything["5"].items() if t not in ours)
    lines += ["", "Of the tests in the same files that build none of them, "
              f"{others['passed']} passed, {others['failed']} failed, {others['skipped']} were "
              "skipped."]  # fmt: skip
    print("\n".join(lines))
    if args.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        text = "\n".join(["", *lines, "", END])
        PAGE.write_text(f"{before}{BEGIN}{text}{after}", encoding="utf-8")
    wrong = unexplained(found)
    print("\n".join(f"unexplained: {test}" for test in wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
