"""A total that those who need a part of it share: bytes of memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from clipsearch_server.priority import Precedence, is_background

_Waiting: TypeAlias = deque[tuple[int, asyncio.Future[None]]]


class Budget:
    """Gives out parts of ``total``; whoever asks for more than is left waits, and is let in by
    `priority`, those of one priority in the order of their arrival: who needs little does not
    overtake who needs much. Whoever asks for more than the total gets all of it, once it
    is all there."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._foreground: _Waiting = deque()
        self._background: _Waiting = deque()
        self._precedence = Precedence()

    @asynccontextmanager
    async def take(self, amount: int) -> AsyncIterator[None]:
        """Waits for a part, and holds it for as long as the block lasts."""
        await self.acquire(amount)
        try:
            yield
        finally:
            self.release(amount)

    async def acquire(self, amount: int) -> None:
        """Waits for a part; ``release`` gives it back."""
        amount = min(amount, self._total)
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._background if is_background() else self._foreground).append((amount, admitted))
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():  # whoever waits behind it may need less
                self._admit()
            else:  # it was let in, and does not come
                self.release(amount)
            raise

    def release(self, amount: int) -> None:
        self._left += min(amount, self._total)
        self._admit()

    def _admit(self) -> None:
        while True:
            for queue in (self._foreground, self._background):
                while queue and queue[0][1].cancelled():
                    queue.popleft()
            waits = {"foreground": bool(self._foreground), "background": bool(self._background)}
            chosen = self._precedence.will_be_backgrounds(**waits)
            queue = self._background if chosen else self._foreground
            if not queue or queue[0][0] > self._left:
                return
            self._precedence.is_backgrounds(**waits)
            amount, admitted = queue.popleft()
            self._left -= amount
            admitted.set_result(None)
