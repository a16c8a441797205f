"""When an overloaded server may be asked again."""

from __future__ import annotations

import random
import time

from clipsearch._errors import OverloadedError, SearchError


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
