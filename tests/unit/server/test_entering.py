"""Two things opened side by side: who owns them, and which failure is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

import pytest

from clipsearch_server.entering import enter_both


class Log(list[str]):
    """What was opened and closed, in order."""

    @asynccontextmanager
    async def opens(self, name: str, before: Callable[[], Awaitable[object]]) -> AsyncIterator[str]:
        try:
            await before()
        except BaseException:
            self.append(f"{name} gave up")
            raise
        self.append(f"{name} opened")
        try:
            yield name
        finally:
            self.append(f"{name} closed")


async def at_once() -> None:
    pass


async def never() -> None:
    await asyncio.Event().wait()


def fails(error: str) -> Callable[[], Awaitable[NoReturn]]:
    async def fail() -> NoReturn:
        raise ValueError(error)

    return fail


async def test_both_open_at_the_same_time_and_close_in_reverse_order() -> None:
    log, second_began = Log(), asyncio.Event()

    async def begin() -> None:
        second_began.set()

    async with asyncio.timeout(5), AsyncExitStack() as stack:
        opened = await enter_both(
            stack, log.opens("first", second_began.wait), log.opens("second", begin)
        )
        assert opened == ("first", "second")

    assert log[2:] == ["second closed", "first closed"]


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("other", "then"), [(at_once, ["other opened", "other closed"]), (never, ["other gave up"])]
)
async def test_when_one_fails_the_other_is_closed(
    failing: int, other: Callable[[], Awaitable[None]], then: list[str]
) -> None:
    log = Log()
    contexts = [log.opens("other", other)]
    contexts.insert(failing, log.opens("failing", fails("the reason")))

    with pytest.raises(ValueError, match="the reason"):
        async with AsyncExitStack() as stack:
            await enter_both(stack, *contexts)

    log.remove("failing gave up")
    assert log == then


async def test_when_both_fail_the_error_of_the_first_is_told() -> None:
    log = Log()

    with pytest.raises(ValueError, match="one"):
        async with AsyncExitStack() as stack:
            await enter_both(stack, log.opens("a", fails("one")), log.opens("b", fails("two")))


async def test_who_is_cancelled_leaves_nothing_open() -> None:
    log = Log()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), AsyncExitStack() as stack:
            await enter_both(stack, log.opens("opened", at_once), log.opens("waiting", never))

    assert log == ["opened opened", "waiting gave up", "opened closed"]
