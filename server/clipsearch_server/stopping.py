"""The signals that end a server."""

from __future__ import annotations

import asyncio
import os
import signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def told_to_stop() -> asyncio.Event:
    """Returns what SIGTERM or SIGINT sets from now on; a second one ends the process at once, with
    128 and the signal's number."""
    stopping = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stopping


def told_to_stop_by_any() -> asyncio.Event:
    """Returns what SIGTERM or SIGINT sets from now on, however many there are: for a process whose
    parent is told too and passes it on. Whether to end at once, the parent decides."""
    stopping = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping
