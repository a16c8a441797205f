"""A budget is never exceeded, is given out in order, and comes back whole."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch_server.budget import Budget
from clipsearch_server.priority import BACKGROUND_SHARE, in_background


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_asks_for_more_than_is_left_waits_and_is_not_overtaken() -> None:
    budget = Budget(10)
    await budget.acquire(6)
    order: list[str] = []

    async def ask(name: str, amount: int) -> None:
        await budget.acquire(amount)
        order.append(name)

    tasks = [asyncio.create_task(ask("much", 7)), asyncio.create_task(ask("little", 1))]
    await settle()
    assert order == []
    budget.release(6)
    await asyncio.gather(*tasks)
    assert order == ["much", "little"]


async def test_who_asks_for_more_than_there_is_gets_all_of_it_alone() -> None:
    budget = Budget(10)
    async with budget.take(1):
        huge = asyncio.create_task(budget.acquire(1000))
        await settle()
        assert not huge.done()
    await huge
    next_ = asyncio.create_task(budget.acquire(1))
    await settle()
    assert not next_.done()
    budget.release(1000)
    await next_


async def test_who_gives_up_lets_those_behind_pass() -> None:
    budget = Budget(10)
    await budget.acquire(5)
    greedy = asyncio.create_task(budget.acquire(10))
    modest = asyncio.create_task(budget.acquire(5))
    await settle()
    greedy.cancel()
    await modest


async def test_who_is_let_in_and_cancelled_at_once_gives_it_back() -> None:
    budget = Budget(10)
    await budget.acquire(10)
    late = asyncio.create_task(budget.acquire(10))
    await settle()
    budget.release(10)
    late.cancel()
    await asyncio.wait({late})
    assert late.cancelled()
    async with asyncio.timeout(10), budget.take(10):
        pass


async def test_a_query_gets_its_part_before_all_that_may_wait_but_every_fourth_time() -> None:
    budget = Budget(10)
    await budget.acquire(10)
    order: list[str] = []

    async def ask(name: str) -> None:
        with in_background(name.startswith("add")):
            await budget.acquire(10)
        order.append(name)
        budget.release(10)

    tasks = [asyncio.create_task(ask(f"add {number}")) for number in range(100)]
    await settle()
    tasks += [asyncio.create_task(ask(f"query {number}")) for number in range(BACKGROUND_SHARE)]
    await settle()
    budget.release(10)
    await asyncio.gather(*tasks)
    *first, fourth, last = order[: BACKGROUND_SHARE + 1]
    assert first == [f"query {number}" for number in range(BACKGROUND_SHARE - 1)]
    assert (fourth, last) == ("add 0", f"query {BACKGROUND_SHARE - 1}")


async def test_a_query_that_there_is_enough_for_does_not_wait_behind_what_may_wait() -> None:
    budget = Budget(10)
    await budget.acquire(5)
    with in_background():
        add = asyncio.create_task(budget.acquire(10))
    await settle()
    async with asyncio.timeout(10):
        await budget.acquire(5)
    assert not add.done()
    budget.release(10)
    await add


@settings(deadline=None, derandomize=True)
@given(
    total=st.integers(1, 20),
    asked=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=30),
)
def test_it_is_never_exceeded_and_all_comes_back(
    total: int, asked: list[tuple[int, int, bool]]
) -> None:
    held = 0

    async def use(budget: Budget, amount: int, steps: int) -> None:
        nonlocal held
        async with budget.take(amount):
            held += min(amount, total)
            assert held <= total
            try:
                for _ in range(steps):
                    await asyncio.sleep(0)
            finally:
                held -= min(amount, total)

    async def run() -> None:
        budget = Budget(total)
        tasks = []
        for amount, steps, is_cancelled in asked:
            task = asyncio.create_task(use(budget, amount, steps))
            if is_cancelled:
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
            tasks.append(task)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [one for one in ended if isinstance(one, AssertionError)]
        async with budget.take(total):
            pass

    asyncio.run(run())
