"""Says no, politely, to what is more than the server takes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from clipsearch_server.callers import Caller
from clipsearch_server.errors import Overloaded
from clipsearch_server.rpc.methods import Work


class Admission:
    """Bounds the calls under way of each class, so that those being served stay fast however many
    come in."""

    def __init__(self, places: Mapping[Work, int]) -> None:
        self._places = places
        self._in_flight: Counter[Work] = Counter()

    @contextmanager
    def admit(self, work: Work, caller: Caller) -> Iterator[None]:
        """Holds a place for as long as the block lasts. Raises Overloaded if there is none."""
        if self._in_flight[work] >= self._places[work]:
            raise Overloaded("the server is busy; try again in a moment")
        self._in_flight[work] += 1
        try:
            yield
        finally:
            self._in_flight[work] -= 1
