"""map_unordered: bounded in number and memory, unordered, and closed cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from clipsearch_server.budget import Budget
from clipsearch_server.rpc import streams

MEMORY = 10

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    function: Callable[[Item], Awaitable[Result]],
    items: AsyncIterator[Item],
    *,
    limit: int = 4,
    memory: Budget | None = None,
    size_of: Callable[[Item], int] = lambda item: 1,
) -> AsyncGenerator[Result]:
    """The function under test, with memory enough for whatever the limit lets in."""
    memory = memory or Budget(MEMORY)
    results = streams.map_unordered(function, items, limit=limit, memory=memory, size_of=size_of)
    assert isinstance(results, AsyncGenerator)
    return results


async def count(to: int, read: list[int] | None = None) -> AsyncIterator[int]:
    for number in range(to):
        if read is not None:
            read.append(number)
        yield number


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@pytest.mark.parametrize("total", [0, 1, 3, 4, 100])
async def test_every_item_has_its_result(total: int) -> None:
    results = [result async for result in map_unordered(double, count(total))]
    assert sorted(results) == [2 * number for number in range(total)]


async def test_a_fast_item_overtakes_a_slow_one() -> None:
    slow = asyncio.Event()

    async def work(number: int) -> int:
        if number == 0:
            await slow.wait()
        return number

    results = []
    async for result in map_unordered(work, count(3)):
        results.append(result)
        if len(results) == 2:
            slow.set()
    assert results == [1, 2, 0]


async def test_no_more_than_the_limit_is_read_ahead_of_the_consumer() -> None:
    read: list[int] = []
    results = map_unordered(double, count(100, read))
    for taken in range(1, 10):
        await anext(results)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(read) <= taken + 3 + 1
    await results.aclose()


async def test_what_has_no_memory_is_not_worked_on_and_nothing_more_is_read() -> None:
    read: list[int] = []
    working: list[int] = []
    let_go = asyncio.Event()

    async def work(number: int) -> int:
        working.append(number)
        await let_go.wait()
        return number

    results = map_unordered(work, count(6, read), size_of=lambda number: MEMORY // 2)
    first = asyncio.ensure_future(anext(results))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (working, read) == ([0, 1], [0, 1, 2])
    let_go.set()
    assert {await first} | {result async for result in results} == set(range(6))


async def test_closing_gives_back_the_memory() -> None:
    memory = Budget(MEMORY)

    async def work(number: int) -> int:
        if number:
            await asyncio.Event().wait()
        return number

    results = map_unordered(work, count(3), memory=memory, size_of=lambda _: 5)
    await anext(results)
    await results.aclose()
    async with asyncio.timeout(10), memory.take(MEMORY):
        pass


async def test_an_exception_of_the_input_ends_it() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        [result async for result in map_unordered(double, broken())]
    assert caught.group_contains(ConnectionError)


async def test_closing_cancels_what_is_under_way() -> None:
    cancelled = asyncio.Event()

    async def work(number: int) -> int:
        if number == 0:
            return 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return number

    results = map_unordered(work, count(3))
    assert await anext(results) == 0
    await asyncio.sleep(0)
    await results.aclose()
    assert cancelled.is_set()


async def test_a_consumer_that_is_cancelled_leaves_nothing_behind() -> None:
    async def consume() -> None:
        async for _ in map_unordered(asyncio.sleep, count(3)):
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    consumer = asyncio.create_task(consume())
    for _ in range(10):
        await asyncio.sleep(0)
    consumer.cancel()
    await asyncio.wait({consumer})
    await asyncio.get_running_loop().shutdown_asyncgens()
    async with asyncio.timeout(10):
        while asyncio.all_tasks() != before:  # noqa: ASYNC110 - until it is closed
            await asyncio.sleep(0)
