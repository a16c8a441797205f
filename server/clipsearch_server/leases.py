"""Who uses a collection, so that it does not go from under them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from clipsearch_server.errors import CollectionLeaving


class Leases:
    """Counts the users of each name, and lets none in once it is to go."""

    def __init__(self) -> None:
        self._users: dict[str, _Users] = {}  # only of names that are used, or are to go

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keeps what has the name from going as long as the block lasts. Raises
        CollectionLeaving if it is to go."""
        with self._users_of(name) as users:
            users.count += 1
            users.none.clear()
            try:
                yield
            finally:
                users.count -= 1
                if not users.count:
                    users.none.set()

    @asynccontextmanager
    async def end(self, name: str) -> AsyncIterator[None]:
        """Refuses new users, and waits until there are none; they may come again when the block is
        left. Raises CollectionLeaving if another does the same."""
        with self._users_of(name) as users:
            users.leaving = True
            try:
                await users.none.wait()
                yield
            finally:
                users.leaving = False

    @contextmanager
    def _users_of(self, name: str) -> Iterator[_Users]:
        users = self._users.setdefault(name, _Users())
        if users.leaving:
            raise CollectionLeaving(name)
        try:
            yield users
        finally:
            if not users.count and not users.leaving:
                del self._users[name]


class _Users:
    def __init__(self) -> None:
        self.count = 0
        self.leaving = False
        self.none = asyncio.Event()
        self.none.set()
