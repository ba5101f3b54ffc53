"""Test tiers by flag, and fixtures that leave no trace."""

import logging
import shlex
import signal
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the slow tier (minutes)")
    parser.addoption("--soak", action="store_true", help="all seeds of the trials, not a sample")
    parser.addoption("--first-seed", type=int, default=0, help="where the trials' seeds begin")


def pytest_configure() -> None:
    """In the background, or under nohup, a process ignores signals, and so do those it starts."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A trial, marked ``tries(sample=2, soak=20)``, runs once with each ``seed``."""
    marker = metafunc.definition.get_closest_marker("tries")
    if marker is not None:
        first = metafunc.config.getoption("--first-seed")
        tries = marker.kwargs["soak" if metafunc.config.getoption("--soak") else "sample"]
        metafunc.parametrize("seed", range(first, first + tries), ids=lambda seed: f"seed{seed}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A failed trial says its seed, and how to repeat it."""
    report = yield
    if report.failed and item.get_closest_marker("tries"):
        seed = item.callspec.params["seed"]  # type: ignore[attr-defined]
        command = f"python -m pytest --first-seed {seed} {shlex.quote(item.nodeid)}"
        report.sections.append(("seed", f"{seed}; repeat it with: {command}"))
    return report


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """What a soak tried, for docs/reliability.md."""
    if not config.getoption("--soak"):
        return
    tried, failed, killed = Counter(), Counter(), Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and "[" in report.nodeid:
                trial = report.nodeid.split("[")[0].replace("tests/trials/test_", "")
                tried[trial] += 1
                failed[trial] += outcome == "failed"
                for what, kills in report.user_properties:
                    killed[f"{trial}: {what}"] += kills
    terminalreporter.section("tries")
    for trial in sorted(tried):
        terminalreporter.write_line(f"{tried[trial]:6} tried {failed[trial]:4} failed  {trial}")
    for what in sorted(killed):
        terminalreporter.write_line(f"{killed[what]:6} killed  {what}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow tier: give --run-slow"))


def _loggers() -> list[logging.Logger]:
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from one seed, hears messages, and leaves the default dtype as it was."""
    logging.disable(logging.NOTSET)  # the benchmarks silence fairseq's messages
    logging.getLogger("fairseq").setLevel(logging.NOTSET)  # and commands too, in modules' fixtures
    levels = {logger: logger.level for logger in _loggers()}
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    for logger in _loggers():
        logger.setLevel(levels.get(logger, logging.NOTSET))


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of the loopback that is taken, so that nobody else comes to listen on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def translator_files(tmp_path_factory):
    """A small trained translator: `checkpoint`, `data` and `exported`."""
    from helpers import number_translator  # needs what only few tests need

    return number_translator.make(tmp_path_factory.mktemp("translator"))
