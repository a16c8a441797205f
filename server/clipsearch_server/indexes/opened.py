"""The indexes of a store that are open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Generic, TypeVar

T = TypeVar("T")


class OpenIndexes(Generic[T]):
    """Opens each collection's index once, however many ask for it at a time, and keeps it open."""

    def __init__(self) -> None:
        self._openings: dict[str, asyncio.Task[_Opened[T]]] = {}  # under way, or done

    async def open(self, name: str, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Returns the index of a collection, which ``make`` makes if it is not open yet. Raises
        what entering it raises; the next call then tries again."""
        opening = self._openings.get(name)
        if opening is None:
            opening = asyncio.create_task(_enter(make()), name=f"open {name}")
            self._openings[name] = opening
            opening.add_done_callback(lambda done: self._forget_failure(name, done))
        # Others may wait for it too, so whoever gives up leaves it at work.
        return (await asyncio.shield(opening)).index

    async def close(self, name: str) -> None:
        """Closes a collection's index, if it is open: to the end, also if the caller gives up."""
        opening = self._openings.pop(name, None)
        if opening is not None:
            await asyncio.shield(asyncio.create_task(_close(opening), name=f"close {name}"))

    async def close_all(self) -> None:
        """Closes the indexes, all at a time: each may have much to write before it ends."""
        closings = await asyncio.gather(*map(self.close, self._openings), return_exceptions=True)
        for error in closings:
            if error is not None:
                raise error

    def _forget_failure(self, name: str, opening: asyncio.Task[_Opened[T]]) -> None:
        failed = opening.cancelled() or opening.exception() is not None
        if failed and self._openings.get(name) is opening:
            del self._openings[name]


class _Opened(Generic[T]):
    """An index, and how it is closed."""

    def __init__(self, index: T, stack: AsyncExitStack) -> None:
        self.index = index
        self.stack = stack


async def _enter(index: AbstractAsyncContextManager[T]) -> _Opened[T]:
    stack = AsyncExitStack()
    return _Opened(await stack.enter_async_context(index), stack)


async def _close(opening: asyncio.Task[_Opened[T]]) -> None:
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().stack.aclose()
