"""Hypothesis, seeded by a trial: the same examples at every run, and a failure made small."""

from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test
from hypothesis.strategies import SearchStrategy


def settings(examples: int, steps: int = 50) -> hypothesis.settings:
    """No deadline (machines are slow at times), and no file: the seed says all."""
    return hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def explore(
    seed: int, examples: int, of: SearchStrategy[Any], check: Callable[[Any], None]
) -> None:
    """Check that many examples of a strategy; a failure is of the smallest one found."""

    @hypothesis.seed(seed)
    @settings(examples)
    @hypothesis.given(of)
    def holds(example: Any) -> None:
        check(example)

    holds()


def run_machine(seed: int, examples: int, steps: int, machine: type) -> None:
    """Run a state machine that many times, each of at most so many steps."""
    seeded = hypothesis.seed(seed)(type(machine.__name__, (machine,), {}))
    run_state_machine_as_test(seeded, settings=settings(examples, steps))
