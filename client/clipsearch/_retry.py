"""How long a call may take, and when an overloaded server may be asked again."""

from __future__ import annotations

import random
import time

from clipsearch._errors import OverloadedError, SearchError

# Longer ones, infinity among them, overflow in gRPC and in threading.
_LONGEST_TIMEOUT_S = 365 * 86_400.0


def effective_timeout_s(own_s: float | None, default_s: float) -> float:
    """Returns the seconds that a call may take: its own timeout, or else its client's.

    Raises ValueError unless that is positive.
    """
    timeout_s = default_s if own_s is None else own_s
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; a call takes longer than that")
    return min(timeout_s, _LONGEST_TIMEOUT_S)


class RetryBudget:
    """One call's time, and the repetitions that a server's RetryInfo may ask for within it."""

    def __init__(self, timeout_s: float, repetitions: int = 2) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._repetitions = repetitions

    @property
    def remaining_s(self) -> float:
        """The time left for the next attempt."""
        return max(self._deadline_s - time.monotonic(), 0.0)

    def take_pause_s(self, error: SearchError) -> float | None:
        """Returns how long to wait before the call is repeated, or None if it must not be."""
        if not isinstance(error, OverloadedError) or error.retry_after_s is None:
            return None
        # A little more than asked for, so that those refused together do not come back together.
        pause_s = error.retry_after_s * random.uniform(1.0, 1.2)
        if self._repetitions == 0 or pause_s >= self.remaining_s:
            return None
        self._repetitions -= 1
        return pause_s
