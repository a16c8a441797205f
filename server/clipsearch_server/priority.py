"""What may wait: whether the call being served is one that nobody looks at a screen for.

Like `deadline`, it goes with the call into whatever works for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

_background: ContextVar[bool] = ContextVar("background", default=False)

# One in so many is the background's, should all others want to go before it.
BACKGROUND_SHARE = 4


@contextmanager
def in_background(value: bool = True) -> Iterator[None]:
    """Sets whether what is done in this block may wait for others."""
    token = _background.set(value)
    try:
        yield
    finally:
        _background.reset(token)


def is_background() -> bool:
    """Returns whether what is being done may wait for others."""
    return _background.get()


class Precedence:
    """Chooses who goes next, if some wait in the foreground and some in the background: the
    foreground, but every ``BACKGROUND_SHARE``-th time, so that nobody waits for ever."""

    def __init__(self) -> None:
        self._passed_over = 0

    def is_backgrounds(self, *, foreground: bool, background: bool) -> bool:
        """Gives out a turn, for which somebody waits; returns whether it is the background's."""
        chosen = self.will_be_backgrounds(foreground=foreground, background=background)
        self._passed_over = self._passed_over + 1 if background and not chosen else 0
        return chosen

    def will_be_backgrounds(self, *, foreground: bool, background: bool) -> bool:
        """Returns what `is_backgrounds` would, and gives out nothing."""
        return background and not (foreground and self._passed_over < BACKGROUND_SHARE - 1)


class Places:
    """A semaphore of ``count`` places. Who waits is let in by priority, and those of one priority
    in the order of their arrival."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._foreground: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()
        self._precedence = Precedence()

    def locked(self) -> bool:
        """Returns whether who comes now has to wait."""
        return self._free == 0

    async def acquire(self) -> None:
        """Waits for a place; ``release`` gives it back."""
        if self._free:
            self._free -= 1
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._background if is_background() else self._foreground).append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():  # it was let in, and does not come
                self.release()
            raise

    def release(self) -> None:
        for queue in (self._foreground, self._background):
            while queue and queue[0].cancelled():
                queue.popleft()
        if not self._foreground and not self._background:
            self._free += 1
            return
        chosen = self._precedence.is_backgrounds(
            foreground=bool(self._foreground), background=bool(self._background)
        )
        (self._background if chosen else self._foreground).popleft().set_result(None)

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
