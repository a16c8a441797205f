"""Adds images over as many streams as it takes, whatever the server goes through meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from threading import Event
from typing import Generic, Protocol, TypeVar

from clipsearch import AddItem, AddResult, SearchClient, SearchError
from clipsearch.cli.index.patience import (
    FATAL_ERRORS,
    MAX_ATTEMPTS,
    SERVER_ERRORS,
    Patience,
    is_passing,
)


class _Tried(Protocol):
    attempts: int


T = TypeVar("T", bound=_Tried)


class Delivery(Generic[T]):
    """Delivers parcels to a collection until each has a result.

    ``pack`` makes a parcel's item, of which the item_id is replaced, each time when it is to be
    sent, or deals with it otherwise and returns None; the parcel whose packing raises a SearchError
    is packed again. ``take`` notes a result that is not the server's own trouble.
    """

    def __init__(
        self,
        client: SearchClient,
        pack: Callable[[T], AddItem | None],
        take: Callable[[T, AddResult], None],
        *,
        collection: str,
        max_in_flight: int,
        patience: Patience,
        stopping: Event,
    ) -> None:
        self._client = client
        self._pack = pack
        self._take = take
        self._collection = collection
        self._max_in_flight = max_in_flight
        self._patience = patience
        self._stopping = stopping
        self._number = 0
        self._under_way: dict[str, T] = {}  # by item id
        self._again: deque[T] = deque()
        # What got a server's error of its own is sent after others, so that it cannot hold them up.
        self._suspects: deque[T] = deque()
        self._server_error: SearchError | None = None

    def deliver(
        self,
        parcels: Iterable[T],
        *,
        finish: Callable[[], None] = lambda: None,
        check_server: Callable[[], None] | None = None,
    ) -> None:
        """Returns when all are dealt with, or early once ``stopping`` is set.

        ``finish`` is called at the end of each stream, and ``check_server`` when a server that was
        in trouble is back. Raises whatever these, ``pack`` and ``take`` raise, but for a
        SearchError that passes in time; and that of an item if no other would fare better.
        """
        left = iter(parcels)
        while not self._stopping.is_set():
            try:
                for result in self._client.add_images(
                    self._items(left),
                    collection=self._collection,
                    max_in_flight=self._max_in_flight,
                ):
                    self._sort(result)
                finish()
                if self._server_error is None:
                    return
                error = self._server_error
            except SearchError as passing:
                if self._stopping.is_set() or not is_passing(passing):
                    raise
                self._again.extend(self._under_way.values())
                self._under_way.clear()
                error = passing
            self._patience.wait(error, check_server)

    def again(self, parcel: T) -> None:
        """Has a parcel packed once more, whose result could not be dealt with."""
        self._again.append(parcel)

    def _items(self, parcels: Iterator[T]) -> Iterator[AddItem]:
        """Yields what is to be sent, until there is no more or a result is a server's error."""
        self._server_error = None
        while self._server_error is None:
            parcel = self._again.popleft() if self._again else next(parcels, None)
            if parcel is None:
                break
            for item in self._packed(parcel):
                yield item
                yield from self._suspect_items()
        yield from self._suspect_items()

    def _suspect_items(self) -> Iterator[AddItem]:
        while self._suspects and self._server_error is None:
            yield from self._packed(self._suspects.popleft())

    def _packed(self, parcel: T) -> Iterator[AddItem]:
        try:
            item = self._pack(parcel)
        except SearchError:
            self._again.append(parcel)
            raise
        if item is not None:
            self._number += 1
            item_id = str(self._number)
            self._under_way[item_id] = parcel
            yield replace(item, item_id=item_id)

    def _sort(self, result: AddResult) -> None:
        parcel, error = self._under_way.pop(result.item_id), result.error
        if isinstance(error, FATAL_ERRORS):
            raise error
        if isinstance(error, SERVER_ERRORS):
            parcel.attempts += not self._patience.is_in_trouble
            if parcel.attempts < MAX_ATTEMPTS:
                self._suspects.append(parcel)
                self._server_error = error
                return
        self._patience.renew()
        self._take(parcel, result)
