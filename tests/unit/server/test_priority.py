"""Who waits for an answer goes before what may wait, and that goes on all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from clipsearch_server.batching import Batcher
from clipsearch_server.priority import BACKGROUND_SHARE, Places, in_background


class Gate:
    """What a batcher works with: records its batches, and lets one through at a time."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = asyncio.Semaphore(0)
        self.passes = asyncio.Semaphore(0)

    async def process(self, rows: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(rows))
        self.begun.release()
        await self.passes.acquire()
        return rows


@asynccontextmanager
async def batching(gate: Gate, *, max_batch: int) -> AsyncIterator[Batcher[str, str]]:
    batcher: Batcher[str, str] = Batcher(
        gate.process,
        name="rows",
        max_batch=max_batch,
        is_of_one=lambda error: False,
        closed=lambda: RuntimeError("closed"),
    )
    work = asyncio.create_task(batcher.work())
    try:
        yield batcher
    finally:
        work.cancel()
        await asyncio.wait({work})


async def submit(batcher: Batcher[str, str], row: str) -> None:
    with in_background(row.startswith("b")):
        assert await batcher.submit([row]) == [row]


async def test_a_row_that_somebody_waits_for_goes_before_those_that_may_wait() -> None:
    gate = Gate()
    async with batching(gate, max_batch=8) as batcher:
        calls = [asyncio.create_task(submit(batcher, "b0"))]
        await gate.begun.acquire()
        rows = [f"b{n}" for n in range(1, 12)] + ["f0", "f1"]
        calls += [asyncio.create_task(submit(batcher, row)) for row in rows]
        await asyncio.sleep(0)
        for _ in range(20):
            gate.passes.release()
        await asyncio.gather(*calls)
    first, urgent, *others = gate.batches
    assert (first, urgent) == (["b0"], ["f0", "f1"])
    # Small, as more may be urgent at any moment; in their order, and all of them.
    assert [len(batch) for batch in others] == [2, 2, 2, 2, 2, 1]
    assert [row for batch in others for row in batch] == [f"b{n}" for n in range(1, 12)]


async def test_without_urgent_rows_batches_are_full() -> None:
    gate = Gate()
    async with batching(gate, max_batch=8) as batcher:
        calls = [asyncio.create_task(submit(batcher, f"b{n}")) for n in range(17)]
        for _ in range(3):
            gate.passes.release()
        await asyncio.gather(*calls)
    assert [len(batch) for batch in gate.batches] == [8, 8, 1]


async def test_what_may_wait_has_its_share_however_much_is_urgent() -> None:
    gate = Gate()
    async with batching(gate, max_batch=4) as batcher:
        rows = [f"b{n}" for n in range(8)] + [f"f{n}" for n in range(200)]
        calls = [asyncio.create_task(submit(batcher, row)) for row in rows]
        for _ in range(2 * BACKGROUND_SHARE):
            gate.passes.release()
            await gate.begun.acquire()
        kinds = "".join(batch[0][0] for batch in gate.batches[: 2 * BACKGROUND_SHARE])
        assert kinds == ("f" * (BACKGROUND_SHARE - 1) + "b") * 2
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_places_go_to_who_waits_for_an_answer_first_and_by_turns() -> None:
    places = Places(1)
    order: list[str] = []

    async def work(name: str) -> None:
        with in_background(name.startswith("b")):
            async with places:
                order.append(name)
                await asyncio.sleep(0)

    names = [*(f"b{n}" for n in range(4)), *(f"f{n}" for n in range(7))]
    await asyncio.gather(*map(work, names))
    # b0 found the place free.
    expected = ["b0", "f0", "f1", "f2", "b1", "f3", "f4", "f5", "b2", "f6", "b3"]
    assert order == expected
    assert not places.locked()


async def test_who_gives_up_waiting_takes_no_place_with_them() -> None:
    places = Places(1)
    await places.acquire()
    gone = [asyncio.create_task(places.acquire()) for _ in range(3)]
    stays = asyncio.create_task(places.acquire())
    await asyncio.sleep(0)
    for task in gone[:2]:
        task.cancel()
    await asyncio.wait(gone[:2])
    places.release()  # to the third, which is gone before it knows
    gone[2].cancel()
    await asyncio.wait(gone)
    async with asyncio.timeout(10):
        await stays
    places.release()
    assert not places.locked()


async def test_what_fails_for_one_row_leaves_none_of_its_caller_to_be_worked_on() -> None:
    batches: list[list[str]] = []

    async def process(rows: Sequence[str]) -> Sequence[str]:
        batches.append(list(rows))
        if rows == ["poison"]:
            raise ValueError("poison")
        return rows

    batcher: Batcher[str, str] = Batcher(
        process,
        name="rows",
        max_batch=1,
        is_of_one=lambda error: False,
        closed=lambda: RuntimeError("closed"),
    )
    work = asyncio.create_task(batcher.work())
    with pytest.raises(ValueError, match="poison"):
        await batcher.submit(["poison", *(str(number) for number in range(20))])
    assert await batcher.submit(["of another"]) == ["of another"]
    work.cancel()
    await asyncio.wait({work})
    assert len(batches) < 5
