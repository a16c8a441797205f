"""The signals that end a server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping(asyncio.Event):
    """Set when the process is to stop."""

    def __init__(self) -> None:
        super().__init__()
        self._before_exit: list[Callable[[], None]] = []

    def call_before_exit(self, clean_up: Callable[[], None]) -> None:
        """Has something be called that takes a moment, if the process ends at once: nothing else
        is closed then."""
        self._before_exit.append(clean_up)

    def on_signal(self, number: signal.Signals) -> None:
        if self.is_set():
            for clean_up in self._before_exit:
                clean_up()
            os._exit(128 + number)
        self.set()


def told_to_stop() -> Stopping:
    """Returns what SIGTERM or SIGINT sets from now on; a second one ends the process at once, with
    128 and the signal's number."""
    stopping = Stopping()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.on_signal, number)
    return stopping


def told_to_stop_by_any() -> asyncio.Event:
    """Returns what SIGTERM or SIGINT sets from now on, however many there are: for a process whose
    parent is told too and passes it on. Whether to end at once, the parent decides."""
    stopping = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping
