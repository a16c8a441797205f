"""The calls of an index that are under way: bounded, and waited for when it closes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from clipsearch_server.errors import IndexUnavailable, Overloaded


class Admission:
    """Lets in up to ``max_in_flight`` calls at a time, and none once it closes."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._closing = False

    def require_open(self) -> None:
        """Raises IndexUnavailable once the index closes."""
        if self._closing:
            raise self.closed()

    @staticmethod
    def closed() -> IndexUnavailable:
        return IndexUnavailable("the index is closed")

    @contextmanager
    def admitted(self, *, abandoned: int = 0) -> Iterator[None]:
        """Counts the call inside. ``abandoned`` calls are still worked on, though their callers
        have gone. Raises Overloaded, or IndexUnavailable once the index closes."""
        self.require_open()
        if self._in_flight + abandoned >= self._max_in_flight:
            raise Overloaded("too many calls are waiting for the index")
        self._in_flight += 1
        self._drained.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._drained.set()

    async def close(self) -> None:
        """Refuses new calls, and returns when those under way are through."""
        self._closing = True
        await self._drained.wait()
