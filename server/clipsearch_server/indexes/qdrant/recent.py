"""What was asked for a moment ago."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Answers by key, each at most ``max_age_s`` old, from when it was asked for. Whoever asks
    meanwhile waits for the same answer; a failure is told to those, and not remembered."""

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._asked: dict[str, tuple[float, asyncio.Task[T]]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        now = asyncio.get_running_loop().time()
        since, task = self._asked.get(key, (0.0, None))
        if task is None or now - since >= self._max_age_s:
            task = asyncio.ensure_future(_awaited(ask()))
            task.add_done_callback(partial(self._drop_failure, key))
            self._asked[key] = now, task
        return await asyncio.shield(task)

    def forget(self) -> None:
        """What is asked from here on is asked anew."""
        self._asked = {}

    def _drop_failure(self, key: str, done: asyncio.Task[T]) -> None:
        failed = done.cancelled() or done.exception() is not None
        if failed and key in self._asked and self._asked[key][1] is done:
            del self._asked[key]


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer
