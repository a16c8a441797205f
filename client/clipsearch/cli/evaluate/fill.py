"""A data set's images into a collection of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b

from clipsearch import (
    AddItem,
    OverloadedError,
    SearchClient,
    SearchError,
    UnavailableError,
)
from clipsearch.cli.index.entry import Entry, Url, content_of, stamp_of, stored_id, uri_of
from clipsearch.cli.sources import UnreadableError, check_size

_ATTEMPTS = 3  # at an image that the server had no room for


def digest(entries: Sequence[Entry], max_bytes: int) -> str:
    """Returns 12 hexadecimal digits that change when an image, or the file that it is in, does."""
    facts = []
    for entry in entries:
        try:
            stamp = stamp_of(entry, max_bytes)
        except UnreadableError as error:
            stamp = str(error)
        facts.append((entry.key, stamp))
    return blake2b(json.dumps(facts).encode(), digest_size=6).hexdigest()


class Filler:
    """Stores images in a collection, as far as they are not there."""

    def __init__(self, client: SearchClient, collection: str, max_bytes: int) -> None:
        self._client = client
        self._collection = collection
        self._max_bytes = max_bytes
        self._stored = {image.id for image in client.list_images(collection=collection)}
        self.ids: dict[str, str] = {}  # by key
        self.problems: dict[str, str] = {}

    def fill(self, entries: Sequence[Entry], advance: Callable[[int], None]) -> None:
        """Stores the images; ``ids`` then has the id of each, or ``problems`` why there is none.

        ``advance`` is told how many more are settled. Raises SearchError if the stream fails.
        """
        left = list(entries)
        for _ in range(_ATTEMPTS):
            again = self._send(left, advance)
            if not again:
                return
            left = again
        advance(len(left))

    def _send(self, entries: Sequence[Entry], advance: Callable[[int], None]) -> list[Entry]:
        """Returns what is to be sent again."""
        under_way: dict[str, Entry] = {}
        again: list[Entry] = []
        items = self._items(entries, under_way, advance)
        for result in self._client.add_images(items, collection=self._collection):
            entry = under_way.pop(result.item_id)
            if result.added is not None:
                self.ids[entry.key] = result.added.image.id
                self.problems.pop(entry.key, None)
            elif result.error is not None:
                self.problems[entry.key] = str(result.error)
                if _is_passing(result.error):
                    again.append(entry)
                    continue
            advance(1)
        return again

    def _items(
        self,
        entries: Sequence[Entry],
        under_way: dict[str, Entry],
        advance: Callable[[int], None],
    ) -> Iterator[AddItem]:
        for number, entry in enumerate(entries):
            try:
                item = self._item(str(number), entry)
            except UnreadableError as error:
                self.problems[entry.key] = str(error)
                item = None
            if item is None:
                advance(1)
                continue
            under_way[item.item_id] = entry
            yield item

    def _item(self, item_id: str, entry: Entry) -> AddItem | None:
        """Returns what to send; None if it is stored. Raises UnreadableError."""
        if entry.problem is not None:
            raise UnreadableError(entry.problem.message)
        content = content_of(entry)
        check_size(len(content or b""), self._max_bytes)
        id = stored_id(entry, content)
        if id in self._stored:
            self.ids[entry.key] = id
            return None
        url = entry.origin.url if isinstance(entry.origin, Url) else None
        return AddItem(item_id=item_id, url=url, content=content, id=entry.id, uri=uri_of(entry))


def _is_passing(error: SearchError) -> bool:
    return isinstance(error, UnavailableError | OverloadedError)
