"""Reads a source in a thread, so that files are read while others are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from clipsearch import AddOutcome
from clipsearch.cli.index.entry import (
    Entry,
    Failure,
    content_of,
    slim,
    stamp_of,
    stored_id,
    unsent,
)
from clipsearch.cli.index.journal import Journal
from clipsearch.cli.index.report import STORED
from clipsearch.cli.sources import UnreadableError, check_size

MAX_PARCELS = 256
MAX_BYTES = 2**26  # one image at least, however large
_POLL_S = 0.2


@dataclass(slots=True, kw_only=True)
class Parcel:
    """An entry that was read.

    Either it is to be sent, with its ``content`` (None: the server fetches it) and the ``id`` that
    it will have; or it is settled, with an ``outcome`` or a ``failure``, which ``is_known`` to the
    journal or not.
    """

    entry: Entry
    stamp: str = ""
    content: bytes | None = None
    id: str = ""
    outcome: str = ""
    failure: Failure | None = None
    is_known: bool = False
    attempts: int = 0

    @property
    def is_settled(self) -> bool:
        return bool(self.outcome or self.failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Makes parcels of entries, by what the journal knows."""

    journal: Journal
    max_bytes: int
    retries_refused: bool

    def read(self, entry: Entry) -> Parcel:
        if not self.journal.visit(entry.key):
            return Parcel(entry=entry, outcome=AddOutcome.DUPLICATE)
        if entry.problem is not None:
            return Parcel(entry=entry, failure=entry.problem)
        try:
            stamp = stamp_of(entry, self.max_bytes)
            known = self.journal.recall(entry.key)
            if known is not None and known.stamp == stamp:
                if known.failure is None:
                    return Parcel(entry=entry, outcome=STORED)
                if known.failure.is_final and not self.retries_refused:
                    return Parcel(entry=entry, failure=known.failure, is_known=True)
            content = content_of(entry)
            check_size(len(content or b""), self.max_bytes)  # a file may have grown since
        except UnreadableError as error:
            return Parcel(entry=entry, failure=unsent(error.reason, str(error)))
        image_id = stored_id(entry, content)
        return Parcel(entry=slim(entry), stamp=stamp, content=content, id=image_id)


class Readable(Protocol):
    """What was read: the content counts for how far ahead there is room to read."""

    content: bytes | None


S = TypeVar("S")
P = TypeVar("P", bound=Readable)


class ReadAhead(Generic[S, P]):
    """What is read of a source, in its order; entering starts the thread, leaving ends it.

    Iterating raises what the source raised, and ends early once ``stopping`` is set.
    """

    def __init__(self, source: Iterable[S], read: Callable[[S], P], stopping: Event) -> None:
        self._source = source
        self._read = read
        self._stopping = stopping
        self._changed = Condition()
        self._parcels: deque[P] = deque()
        self._bytes = 0
        self._ended = False
        self._is_left = False
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_left = True
        self._thread.join(timeout=5)  # a file system that hangs must not hold up the end

    def __iter__(self) -> Iterator[P]:
        while True:
            with self._changed:
                if not self._wait_for(lambda: bool(self._parcels or self._ended)):
                    return
                if not self._parcels:
                    break
                parcel = self._parcels.popleft()
                self._bytes -= len(parcel.content or b"")
                self._changed.notify_all()
            yield parcel
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._put(self._read(item)):
                    return
        except Exception as error:  # raised where the parcels are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, parcel: P) -> bool:
        """Waits for room; returns False if nobody will take the parcel."""
        size = len(parcel.content or b"")
        with self._changed:
            if not self._wait_for(lambda: self._has_room(size)):
                return False
            self._parcels.append(parcel)
            self._bytes += size
            self._changed.notify_all()
            return True

    def _wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits, and returns False if that was stopped."""
        while not (self._stopping.is_set() or self._is_left):
            # A signal's handler may set the event, and may not take the lock to notify us.
            if self._changed.wait_for(condition, timeout=_POLL_S):
                return True
        return False

    def _has_room(self, size: int) -> bool:
        if not self._parcels:
            return True
        return len(self._parcels) < MAX_PARCELS and self._bytes + size <= MAX_BYTES
