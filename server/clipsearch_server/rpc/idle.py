"""How long a stream may stay without a message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from clipsearch_server.errors import DeadlineExceeded


@asynccontextmanager
async def ends_if_idle(idle_s: float) -> AsyncIterator[Callable[[], None]]:
    """Ends the block after so many seconds in which what it yields was not called. Raises
    DeadlineExceeded then."""
    loop = asyncio.get_running_loop()
    noted_at = loop.time()
    looking: asyncio.TimerHandle

    def note() -> None:
        nonlocal noted_at
        noted_at = loop.time()

    def look() -> None:
        """Puts off the end for what was noted meanwhile: doing so with each message would cost
        more than noting it."""
        nonlocal looking
        idle_until = noted_at + idle_s
        if idle_until <= loop.time():
            timer.reschedule(idle_until)
        else:
            looking = loop.call_at(idle_until, look)

    looking = loop.call_at(noted_at + idle_s, look)
    try:
        async with asyncio.timeout(None) as timer:
            yield note
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            f"no message came or went for {idle_s:g} s; open a new stream when there is more"
        ) from error
    finally:
        looking.cancel()


async def noting(requests: AsyncIterator[Any], note: Callable[[], None]) -> AsyncIterator[Any]:
    """Passes requests on, and notes each of them."""
    async for request in requests:
        note()
        yield request
