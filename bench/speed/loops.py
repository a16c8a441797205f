"""How a server is loaded: by callers that wait for their answers, or by a schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from statistics import quantiles
from typing import TypeAlias

# Makes the call with this number, and returns when it is answered. What it raises ends the load.
Call: TypeAlias = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Samples:
    """What each of some calls took, and what all cost the process that made them."""

    times_ms: tuple[float, ...]  # of each call
    seconds: float  # in which those calls were answered
    cpu_s: float  # of the caller's process, meanwhile

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times_ms) / self.seconds

    def percentile(self, percent: int) -> float:
        """Between the two nearest of all samples; none is left out, none is put in a bucket."""
        return quantiles(self.times_ms, n=100, method="inclusive")[percent - 1]


async def closed_loop(
    call: Call, *, callers: int, seconds: float, warm_up_s: float = 0.3
) -> Samples:
    """Has so many callers make one call after the other, each when its last was answered.

    What is answered within ``seconds``, after the warm-up, is counted. This finds the rate that a
    server sustains. Its latencies are those at that load: a caller who waits asks nothing.
    """
    numbers = count()
    times_ms: list[float] = []
    now = asyncio.get_running_loop().time
    begin = now() + warm_up_s
    end = begin + seconds

    async def caller() -> None:
        while (start := now()) < end:
            await call(next(numbers))
            finish = now()
            if begin <= finish < end:
                times_ms.append((finish - start) * 1000)

    cpu_s = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return Samples(tuple(times_ms), seconds, time.process_time() - cpu_s)


async def open_loop(call: Call, *, rate: float, seconds: float) -> Samples:
    """Begins ``rate`` calls a second on a schedule, however many are still unanswered.

    A call's time counts from when it was due: if the server stalls, all that were to be made
    meanwhile have waited, and say so. (Callers who wait for each answer would make one slow call
    where users would have made hundreds: the coordinated omission.)
    """
    times_ms: list[float] = []
    now = asyncio.get_running_loop().time

    async def caller(number: int, due: float) -> None:
        await call(number)
        times_ms.append((now() - due) * 1000)

    cpu_s = time.process_time()
    start = now()
    async with asyncio.TaskGroup() as tasks:
        for number in range(round(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(due - now())  # those that are late begin at once
            tasks.create_task(caller(number, due))
    elapsed_s = now() - start
    return Samples(tuple(times_ms), elapsed_s, time.process_time() - cpu_s)
