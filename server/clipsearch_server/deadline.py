"""How long the call being served may still take: for adapters, which pass it on to a neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def call_ends_in(seconds: float) -> Iterator[None]:
    """Sets the time that the call served in this block may take."""
    token = _deadline.set(monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_s(at_most: float) -> float:
    """Returns the seconds that the call has left, or ``at_most`` if that is less or no deadline was
    set. Not above 0 if the time is over."""
    deadline = _deadline.get()
    return at_most if deadline is None else min(at_most, deadline - monotonic())
