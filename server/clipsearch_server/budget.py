"""A total that those who need a part of it share: bytes of memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """Gives out parts of ``total``; whoever asks for more than is left waits, in the order of
    arrival. Whoever asks for more than the total gets all of it, once it is all there."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

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
        if not self._waiting and amount <= self._left:
            self._left -= amount
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, admitted))
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
        while self._waiting:
            amount, admitted = self._waiting[0]
            if admitted.cancelled():
                self._waiting.popleft()
            elif amount <= self._left:
                self._waiting.popleft()
                self._left -= amount
                admitted.set_result(None)
            else:
                return
