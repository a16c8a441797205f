"""Which images were written since a copy began."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID


class Changes:
    """Every write passes through here on its way to the index; a copy listens, and may hold it."""

    def __init__(self) -> None:
        self._ids: set[UUID] | None = None  # None: nobody listens
        self._open = asyncio.Event()
        self._open.set()

    async def admit(self, ids: Iterable[UUID]) -> None:
        """Waits while writes are held, then notes the ids. The caller sends the write before it
        next gives way to another task."""
        while not self._open.is_set():
            await self._open.wait()
        if self._ids is not None:
            self._ids.update(ids)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes the ids of the writes that begin inside."""
        self._ids = set()
        try:
            yield
        finally:
            self._ids = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds writes that would begin inside until the end."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def take(self) -> list[UUID]:
        """Returns the ids noted since the last time, and forgets them."""
        taken, self._ids = list(self._ids or ()), set()
        return taken
