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
    def is_equal(self) -> bool:
        return mark(self.source) == mark(self.target)


def mark(image: Image | None) -> int:
    """Returns a 64-bit hash of all that both collections are to agree in: everything but the time
    of the last change."""
    if image is None:
        return ABSENT
    return hash64(_facts(image))


def version(image: Image | None) -> int:
    """Returns a 64-bit hash that changes with every change of an image, even to what it was."""
    if image is None:
        return ABSENT
    return hash64(f"{image.update_time.isoformat()} {_facts(image)}")


def _facts(image: Image) -> str:
    facts = [image.id, image.url, image.uri, image.sha256, image.create_time.isoformat()]
    return json.dumps([*facts, image.duplicate_of, image.metadata], sort_keys=True)


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
    """What both collections held when they were looked at, and what the target was given since:
    the source's marks and the target's versions, about 60 bytes an image. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        self._source, self._target = HashTable(), HashTable()

    def note(self, pair: Pair) -> None:
        self.note_source(pair.id, pair.source)
        self.note_target(pair.id, pair.target)

    def note_source(self, image_id: str, image: Image | None) -> None:
        with self._lock:
            self._source[hash64(image_id)] = mark(image)

    def note_target(self, image_id: str, image: Image | None) -> None:
        with self._lock:
            self._target[hash64(image_id)] = version(image)

    def source(self, image_id: str) -> int:
        """Returns the mark in the source; ABSENT if it was not there."""
        with self._lock:
            return self._source.get(hash64(image_id)) or ABSENT

    def target(self, image_id: str) -> int:
        """Returns the version in the target; ABSENT if it was not there."""
        with self._lock:
            return self._target.get(hash64(image_id)) or ABSENT
