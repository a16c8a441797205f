"""Works on the items of a stream side by side, and yields the results as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_unordered(
    function: Callable[[Item], Awaitable[Result]], items: AsyncIterator[Item], *, limit: int
) -> AsyncIterator[Result]:
    """Yields ``function(item)`` for each item, in the order in which they finish.

    At most ``limit`` items are read and not yet yielded: a consumer that stops taking results stops
    the reading, and a gRPC caller is held back by flow control. An exception of ``items`` or of
    ``function`` ends the iteration with it. Closing the iterator cancels what is under way.
    """
    places = asyncio.Semaphore(limit)
    results: asyncio.Queue[Result | None] = asyncio.Queue()  # bounded by the places

    async def work(item: Item) -> None:
        results.put_nowait(await function(item))

    async def read() -> None:
        async with asyncio.TaskGroup() as workers:
            await places.acquire()
            async for item in items:
                workers.create_task(work(item))
                await places.acquire()
        results.put_nowait(None)

    reader = asyncio.create_task(read())
    getter = asyncio.ensure_future(results.get())
    try:
        while True:
            await asyncio.wait({getter, reader}, return_when=asyncio.FIRST_COMPLETED)
            if not getter.done():
                await reader  # it ended with an exception, or it would have put None
            result = getter.result()
            if result is None:
                return
            yield result
            places.release()
            getter = asyncio.ensure_future(results.get())
    finally:
        getter.cancel()
        reader.cancel()
        await asyncio.gather(getter, reader, return_exceptions=True)
