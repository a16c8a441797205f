"""Two collections side by side, and what they held when they were looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

from clipsearch import Image, SearchClient
from clipsearch.cli.index.hash_table import HashTable, hash64

_PAGE_SIZE = 1000
ABSENT = 0  # the mark of no image


@dataclass(frozen=True, slots=True)
class Pair:
    """What the source and the target hold under one id; one of them at least is there."""

    id: str
    source: Image | None
    target: Image | None

    @property
    def marks(self) -> tuple[int, int]:
        return mark(self.source), mark(self.target)


def mark(image: Image | None) -> int:
    """Returns a 64-bit hash of all that both collections are to agree in: everything but the time
    of the last change."""
    if image is None:
        return ABSENT
    facts = [image.id, image.url, image.uri, image.sha256, image.create_time.isoformat()]
    return hash64(json.dumps([*facts, image.duplicate_of, image.metadata], sort_keys=True))


def pairs(client: SearchClient, source: str, target: str | None) -> Iterator[Pair]:
    """Yields what either collection holds, ordered by id: a merge join of both lists.

    Without a ``target``, there is nothing in it. Raises SearchError.
    """
    theirs = client.list_images(collection=source, page_size=_PAGE_SIZE)
    ours = client.list_images(collection=target, page_size=_PAGE_SIZE) if target else iter(())
    left, right = next(theirs, None), next(ours, None)
    while left or right:
        first = min(it.id for it in (left, right) if it is not None)
        pair = Pair(
            first,
            left if left and left.id == first else None,
            right if right and right.id == first else None,
        )
        yield pair
        if pair.source:
            left = next(theirs, None)
        if pair.target:
            right = next(ours, None)


class Look:
    """The marks that both collections had when they were looked at, or that the target was given
    since: about 60 bytes an image. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._source = HashTable()
        self._target = HashTable()

    def clear(self) -> None:
        with self._lock:
            self._source, self._target = HashTable(), HashTable()

    def note(self, image_id: str, source: int, target: int) -> None:
        key = hash64(image_id)
        with self._lock:
            self._source[key] = source
            self._target[key] = target

    def note_target(self, image_id: str, image: Image | None) -> None:
        with self._lock:
            self._target[hash64(image_id)] = mark(image)

    def marks(self, image_id: str) -> tuple[int, int]:
        """Returns the marks in the source and in the target; ABSENT for what was not there."""
        key = hash64(image_id)
        with self._lock:
            return self._source.get(key) or ABSENT, self._target.get(key) or ABSENT
