"""When things may happen, so that they do not all happen at once. Times are in seconds, of whatever
clock the caller goes by."""

from __future__ import annotations

import math

# Sooner, and a refusal would be as dear as an answer; later, and most would have given up.
SOONEST_S = 0.5
LATEST_S = 15.0

_MIN_PER_SECOND = 1.0  # something ends at least as often, as far as we plan
_WINDOW_S = 1.0


class Rate:
    """How many things there are a second, of late."""

    def __init__(self) -> None:
        self._per_second = 0.0
        self._begun = -math.inf
        self._count = 0

    def count(self, now: float) -> None:
        """Counts one."""
        self._roll(now)
        self._count += 1

    def per_second(self, now: float) -> float:
        """Returns how many there were a second, in the last window that is over."""
        self._roll(now)
        return self._per_second

    def _roll(self, now: float) -> None:
        elapsed = now - self._begun
        if elapsed >= _WINDOW_S:
            self._per_second = self._count / elapsed
            self._begun, self._count = now, 0


class Appointments:
    """Tells callers when to come again: each at another time, as fast one after the other as they
    can be served.

    Who was refused would else come back with all the others, and be refused again. Beyond what is
    served until ``LATEST_S``, times are given out a second time.
    """

    def __init__(self) -> None:
        self._last = -math.inf

    def make(self, now: float, per_second: float) -> float:
        """Returns in how many seconds, between SOONEST_S and LATEST_S, the next one may come."""
        step = 1 / max(per_second, _MIN_PER_SECOND)
        self._last = max(self._last + step, now + SOONEST_S)
        if self._last > now + LATEST_S:
            self._last = now + SOONEST_S
        return self._last - now


class Pacer:
    """A token bucket that holds a second's worth, and one token at least.

    Kept as the time at which it is full again: the generic cell rate algorithm (ITU-T I.371).
    """

    def __init__(self) -> None:
        self._full_at = -math.inf

    def take(self, now: float, per_second: float) -> bool:
        """Takes a token, of which ``per_second`` come in; returns whether there was one."""
        if self.empty_s(now, per_second) > 1e-9:
            return False
        self._full_at = max(self._full_at, now) + 1 / per_second
        return True

    def empty_s(self, now: float, per_second: float) -> float:
        """Returns in how many seconds there is a token; 0 if there is one."""
        interval = 1 / per_second
        return max(0.0, self._full_at + interval - max(1.0, interval) - now)
