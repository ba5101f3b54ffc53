"""Test tiers by flag, and fixtures that leave no trace."""

import logging
import signal
import socket
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the slow tier (minutes)")


def pytest_configure() -> None:
    """In the background, or under nohup, a process ignores signals, and so do those it starts."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow tier: give --run-slow"))


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from one seed, hears warnings, and leaves the default dtype as it was."""
    logging.disable(logging.NOTSET)  # the benchmarks silence fairseq's messages
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


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
