"""What was worked out of late, so that it need not be again, and comes out the same."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from clipsearch_server.metrics import CACHE_REQUESTS

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Keeps the ``size`` values used last, by key. The name is what its metrics go by."""

    def __init__(self, size: int, *, name: str) -> None:
        self._size = size
        self._hits = CACHE_REQUESTS.labels(name, "hit")
        self._misses = CACHE_REQUESTS.labels(name, "miss")
        self._values: OrderedDict[bytes, Value] = OrderedDict()

    def get(self, key: bytes) -> Value | None:
        """Returns a value that is kept, which is then the one used last."""
        if key in self._values:
            self._values.move_to_end(key)
            self._hits.inc()
        else:
            self._misses.inc()
        return self._values.get(key)

    def keep(self, key: bytes, value: Value) -> Value:
        """Keeps a value, and returns it; or the one that is there, which others may have seen."""
        kept = self._values.setdefault(key, value)
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return kept
