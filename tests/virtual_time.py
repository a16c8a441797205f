"""Runs coroutines in a time of their own, which passes at once while all of them wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _PassingTime(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout:
            self.now += timeout + 1e-6  # so that what was waited for is due
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._time = _PassingTime()
        super().__init__(self._time)

    def time(self) -> float:
        return self._time.now


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Returns what ``work`` does. It may wait for timers alone, and for no thread or socket."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
