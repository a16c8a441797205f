"""Works on the items of a stream side by side, and yields the results as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar, cast

from clipsearch_server.budget import Budget

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_unordered(
    function: Callable[[Item], Awaitable[Result]],
    items: AsyncIterator[Item],
    *,
    limit: int,
    memory: Budget,
    size_of: Callable[[Item], int],
) -> AsyncGenerator[Result]:
    """Yields ``function(item)`` for each item, in the order in which they finish.

    At most ``limit`` items are read and not yet yielded, and each takes its ``size_of`` from
    ``memory`` while it is worked on: a consumer that stops taking results stops the reading, as
    does memory that is used up, and a gRPC caller is held back by flow control. An exception of
    ``items`` or of ``function`` ends the iteration with it. Closing the iterator cancels what is
    under way.
    """
    places = asyncio.Semaphore(limit)
    # Bounded by the places. What comes last is the task that read, and how it ended.
    results: asyncio.Queue[Result | asyncio.Task[None]] = asyncio.Queue()

    async def work(item: Item) -> None:
        result = function(item)
        del item  # the function may let go of it before it is done
        results.put_nowait(await result)

    def give_back(size: int, _: object) -> None:
        memory.release(size)

    async def read() -> None:
        async with asyncio.TaskGroup() as workers:
            await places.acquire()
            async for item in items:
                size = size_of(item)
                await memory.acquire(size)
                worker = workers.create_task(work(item))
                # Not by the task itself: one that is cancelled before it starts never runs.
                worker.add_done_callback(partial(give_back, size))
                await places.acquire()

    reader = asyncio.create_task(read())
    reader.add_done_callback(results.put_nowait)
    try:
        while (result := await results.get()) is not reader:
            yield cast(Result, result)
            places.release()
        await reader  # which may have ended with an exception
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
