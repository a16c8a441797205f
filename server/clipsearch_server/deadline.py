"""How long the call being served may still take: for adapters, which pass it on to a neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from time import monotonic

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def call_ends_at(deadline: float | None) -> Iterator[None]:
    """Sets the time, as `time.monotonic` tells it, by which the call served in this block ends."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def call_ends_in(seconds: float) -> AbstractContextManager[None]:
    """Sets how long the call served in this block may take."""
    return call_ends_at(monotonic() + seconds)


def call_deadline() -> float | None:
    """Returns the time by which the call ends; None: whenever it is done."""
    return _deadline.get()


def remaining_s(at_most: float) -> float:
    """Returns the seconds that the call has left, or ``at_most`` if that is less or it has no
    deadline. Not above 0 if the time is over."""
    deadline = _deadline.get()
    return at_most if deadline is None else min(at_most, deadline - monotonic())
