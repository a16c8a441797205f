"""map_unordered: bounded, unordered, and closed cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clipsearch_server.rpc.streams import map_unordered


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
    results = [result async for result in map_unordered(double, count(total), limit=4)]
    assert sorted(results) == [2 * number for number in range(total)]


async def test_a_fast_item_overtakes_a_slow_one() -> None:
    slow = asyncio.Event()

    async def work(number: int) -> int:
        if number == 0:
            await slow.wait()
        return number

    results = []
    async for result in map_unordered(work, count(3), limit=4):
        results.append(result)
        if len(results) == 2:
            slow.set()
    assert results == [1, 2, 0]


async def test_no_more_than_the_limit_is_read_ahead_of_the_consumer() -> None:
    read: list[int] = []
    results = map_unordered(double, count(100, read), limit=4)
    for taken in range(1, 10):
        await anext(results)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(read) <= taken + 3 + 1
    await results.aclose()


async def test_an_exception_of_the_input_ends_it() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        [result async for result in map_unordered(double, broken(), limit=4)]
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

    results = map_unordered(work, count(3), limit=4)
    assert await anext(results) == 0
    await asyncio.sleep(0)
    await results.aclose()
    assert cancelled.is_set()


async def test_a_consumer_that_is_cancelled_leaves_nothing_behind() -> None:
    async def consume() -> None:
        async for _ in map_unordered(asyncio.sleep, count(3), limit=4):
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    consumer = asyncio.create_task(consume())
    for _ in range(10):
        await asyncio.sleep(0)
    consumer.cancel()
    await asyncio.wait({consumer})
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert asyncio.all_tasks() == before
