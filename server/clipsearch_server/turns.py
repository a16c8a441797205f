"""Lets a few at a time do what concerns one and the same thing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """For each key, ``places`` at a time; whoever comes on top waits, in the order of arrival.

    Keys that nobody has or waits for cost nothing.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._semaphores: dict[Hashable, asyncio.Semaphore] = {}
        self._users: Counter[Hashable] = Counter()

    @asynccontextmanager
    async def take(self, key: Hashable) -> AsyncIterator[None]:
        """Waits for a place, and holds it for as long as the block lasts."""
        semaphore = self._semaphores.setdefault(key, asyncio.Semaphore(self._places))
        self._users[key] += 1
        try:
            async with semaphore:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._semaphores[key]
