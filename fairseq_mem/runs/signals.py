"""Signals that end the work in order."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked for the end."""


class StopOnSignal:
    """In this context the first signal raises `Stopped`, further ones are ignored.

    A signal that was ignored before stays ignored, as nohup wants it.
    """

    def __init__(self) -> None:
        self._waits = False  # whether signals take effect later
        self._came = False  # whether one did, meanwhile

    def __enter__(self) -> Self:
        self._handlers = {
            number: signal.signal(number, self._stop)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for ignored in self._handlers:
            signal.signal(ignored, signal.SIG_IGN)
        if self._waits:
            self._came = True
        else:
            raise Stopped

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """For what must not be cut in two: a signal takes effect at its end."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            if self._came:
                self._came = False
                raise Stopped
