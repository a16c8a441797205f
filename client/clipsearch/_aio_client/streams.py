"""What streams are fed from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


async def until_none(queue: asyncio.Queue[_Item | None]) -> AsyncIterator[_Item]:
    """Yields what comes through the queue until that is None."""
    while (item := await queue.get()) is not None:
        yield item


async def iterate(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncIterator[_Item]:
    """Yields the items of either kind of iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
