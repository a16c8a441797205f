"""Lets a few at a time do what concerns one and the same thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from clipsearch_server.priority import Places


class Turns:
    """For each key, ``places`` at a time; whoever comes on top waits, by `priority`.

    Keys that nobody has or waits for cost nothing.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken: dict[Hashable, Places] = {}
        self._users: Counter[Hashable] = Counter()

    @asynccontextmanager
    async def take(self, key: Hashable) -> AsyncIterator[None]:
        """Waits for a place, and holds it for as long as the block lasts."""
        places = self._taken.setdefault(key, Places(self._places))
        self._users[key] += 1
        try:
            async with places:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._taken[key]
