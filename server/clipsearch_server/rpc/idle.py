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

    def note() -> None:
        if not timer.expired():  # a message may come in the same turn of the loop
            timer.reschedule(loop.time() + idle_s)

    try:
        async with asyncio.timeout(idle_s) as timer:
            yield note
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            f"no message came or went for {idle_s:g} s; open a new stream when there is more"
        ) from error


async def noting(requests: AsyncIterator[Any], note: Callable[[], None]) -> AsyncIterator[Any]:
    """Passes requests on, and notes each of them."""
    async for request in requests:
        note()
        yield request
