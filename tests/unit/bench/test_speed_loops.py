"""Two ways to load a server, and what each sees of one that stalls."""

from __future__ import annotations

import asyncio

import pytest

from benches import bench
from virtual_time import run

loops = bench("speed.loops")


class StallingServer:
    """Answers in 10 ms, but for its second second: what comes in then waits for its end."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, number: int) -> None:
        self.calls += 1
        now = asyncio.get_running_loop().time()
        await asyncio.sleep((2.0 - now if 1.0 <= now < 2.0 else 0.0) + 0.010)


def test_an_open_loop_counts_the_wait_of_all_who_came_in_a_stall() -> None:
    server = StallingServer()
    samples = run(loops.open_loop(server, rate=100, seconds=3))
    assert server.calls == 300
    assert len(samples.times_ms) == 300
    assert samples.percentile(50) == pytest.approx(10, abs=1)
    # A third of the calls were due in the stall: they waited from 1 s down to nothing.
    assert samples.percentile(75) == pytest.approx(260, abs=15)
    assert samples.percentile(99) == pytest.approx(980, abs=15)


def test_a_closed_loop_asks_nothing_meanwhile() -> None:
    samples = run(loops.closed_loop(StallingServer(), callers=1, seconds=3, warm_up_s=0))
    assert max(samples.times_ms) == pytest.approx(1010, abs=2)
    assert samples.percentile(99) == pytest.approx(10, abs=1)


def test_a_closed_loop_of_many_counts_what_was_answered_in_its_time() -> None:
    async def call(number: int) -> None:
        await asyncio.sleep(0.1)

    samples = run(loops.closed_loop(call, callers=8, seconds=2, warm_up_s=0.35))
    assert samples.rate == pytest.approx(80, rel=0.06)


def test_a_call_that_is_late_by_itself_counts_from_when_it_was_due() -> None:
    async def first_blocks(number: int) -> None:
        if number == 0:  # the loop itself is held up, so that the next calls begin late
            loop = asyncio.get_running_loop()
            loop._time.now += 0.5  # type: ignore[attr-defined]

    samples = run(loops.open_loop(first_blocks, rate=10, seconds=1))
    assert sorted(samples.times_ms)[-2] == pytest.approx(400, abs=5)


def test_percentiles_come_from_all_samples() -> None:
    samples = loops.Samples(tuple(map(float, range(101))), seconds=10, cpu_s=0)
    assert [samples.percentile(it) for it in (50, 99)] == [50, 99]
    assert samples.rate == 10.1
