"""Remembers content whose decoding killed a worker, so that it costs no other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Entry:
    cause: str
    size_bytes: int
    until: float


class Quarantine:
    """The causes of the last ``max_entries`` deaths, each for ``keep_s`` seconds.

    Not for ever: a worker may also be killed for what is not its image's fault.
    """

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        keep_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._keep_s = keep_s
        self._clock = clock
        self._entries: dict[str, _Entry] = {}  # by SHA-256, oldest first
        self._sizes: Counter[int] = Counter()

    def may_hold(self, size_bytes: int) -> bool:
        """Says whether content of this size is remembered: if not, it need not be hashed."""
        self._forget_old()
        return size_bytes in self._sizes

    def cause(self, sha256: str) -> str | None:
        """Returns what this content did, if that is remembered."""
        self._forget_old()
        entry = self._entries.get(sha256)
        return None if entry is None else entry.cause

    def add(self, sha256: str, size_bytes: int, cause: str) -> None:
        self._forget(sha256)
        self._entries[sha256] = _Entry(cause, size_bytes, self._clock() + self._keep_s)
        self._sizes[size_bytes] += 1
        if len(self._entries) > self._max_entries:
            self._forget(next(iter(self._entries)))

    def _forget_old(self) -> None:
        now = self._clock()
        while self._entries:
            sha256, entry = next(iter(self._entries.items()))
            if entry.until > now:
                return
            self._forget(sha256)

    def _forget(self, sha256: str) -> None:
        entry = self._entries.pop(sha256, None)
        if entry is not None:
            self._sizes[entry.size_bytes] -= 1
            if not self._sizes[entry.size_bytes]:
                del self._sizes[entry.size_bytes]
