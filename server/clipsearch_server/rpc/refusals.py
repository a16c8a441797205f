"""What is told of calls that are refused, in place of a line each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextvars import Context

from clipsearch_server.callers import Caller

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 1.0


class Refusals:
    """Sums up the calls that are refused: a line each would cost more than the refusal, just when
    there is no time to lose."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def note(self, method: str, reason: str, caller: Caller) -> None:
        """Counts one. The log says how many there were, once a second."""
        if not self._counts:
            # Without the call's context: the line is about many, and bears the id of none.
            asyncio.get_running_loop().call_later(_LOG_EVERY_S, self.log, context=Context())
        self._counts[method, reason, caller.name] += 1

    def log(self) -> None:
        """Says how many there were since the last time."""
        for (method, reason, caller), count in sorted(self._counts.items()):
            whose = f" caller={caller}" if caller else ""
            logger.warning("refused calls=%d method=%s reason=%s%s", count, method, reason, whose)
        self._counts.clear()
