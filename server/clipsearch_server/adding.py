"""Adds images: from a source to an embedding in the index, once for each content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Literal, TypeAlias
from uuid import NAMESPACE_URL, UUID, uuid5

from clipsearch_server.embedding import ImageEmbedder, Picture
from clipsearch_server.errors import InvalidImage, InvalidRequest
from clipsearch_server.metrics import IMAGES_ADDED
from clipsearch_server.ports import (
    Embeddings,
    ImageIndex,
    Metadata,
    StoredImage,
)
from clipsearch_server.stages import stage
from clipsearch_server.turns import Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """An image to add: either ``url`` or ``content`` is set."""

    url: str | None
    content: bytes | None
    id: UUID | None
    uri: str
    metadata: Metadata
    fetch_headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # for the url's host
    create_time: datetime | None = None  # None: now, or the time that is stored


class AddOutcome(Enum):
    """What adding an image changed."""

    ADDED = "added"
    UNCHANGED = "unchanged"
    REPLACED = "replaced"
    DUPLICATE = "duplicate"


# What an image is whose id is new and whose content is stored under another one: nothing that is
# stored, a copy that names the other, or an image like any.
Duplicates: TypeAlias = Literal["refuse", "link", "allow"]


@dataclass(frozen=True, slots=True)
class AddedImage:
    """An image as it is stored now, and what adding it changed."""

    image: StoredImage
    outcome: AddOutcome
    duplicate_of: UUID | None = None  # set if the outcome is DUPLICATE


class ImageAdder:
    """Adds images to one collection, and imports those that were embedded before.

    What a port raises is passed on.
    """

    def __init__(
        self, *, embedder: ImageEmbedder, index: ImageIndex, duplicates: Duplicates
    ) -> None:
        self._embedder = embedder
        self._index = index
        self._duplicates: Duplicates = duplicates
        self._turns = Turns(1)

    async def add(self, new: NewImage) -> AddedImage:
        """Adds one image; returns when it is durable. The caller has taken the memory for a content
        that it gives (see `ImageEmbedder`).

        Raises InvalidRequest, SourceNotAllowed, SourceFailed or InvalidImage if the source is at
        fault, InvalidRequest if the create_time is in the future.
        """
        if new.create_time is not None and new.create_time > datetime.now(UTC):
            raise InvalidRequest("create_time", "is in the future")
        try:
            added = await self._add_source(new)
        except InvalidImage as error:
            error.field = "content" if new.url is None else "url"
            raise
        IMAGES_ADDED.labels(added.outcome.value).inc()
        return added

    async def _add_source(self, new: NewImage) -> AddedImage:
        if new.content is not None:
            self._embedder.check_size(new.content)
            return await self._add_content(new, new.content)
        assert new.url is not None
        async with self._embedder.fetched(new.url, new.fetch_headers) as content:
            return await self._add_content(new, content)

    async def _add_content(self, new: NewImage, content: bytes) -> AddedImage:
        sha256 = await self._embedder.sha256(content)
        image_id = new.id or _derived_id(new.url, sha256)
        # What is looked up must still be so when it is acted upon. Two adds may differ in one
        # and share the other; all take the id's turn first, so none waits in a circle.
        async with self._turns.take(image_id), self._turns.take(sha256):
            stored, twin = await self._index.find(image_id, sha256)
            original = await self._original_of(twin) if twin else None
            if stored is not None and _is_same(stored, new, sha256):
                return AddedImage(stored, AddOutcome.UNCHANGED)
            if stored is None and original is not None and self._duplicates == "refuse":
                return AddedImage(original, AddOutcome.DUPLICATE, original.id)
            return await self._store(new, content, sha256, image_id, stored, original)

    async def _store(
        self,
        new: NewImage,
        content: bytes,
        sha256: str,
        image_id: UUID,
        stored: StoredImage | None,  # under the id
        original: StoredImage | None,  # of the same content, perhaps the same
    ) -> AddedImage:
        picture = await self._picture_of(original) if original else None
        if picture is None:
            original = None  # if there was one, it is gone
            picture = await self._embedder.embed(content)
        duplicate_of: UUID | None = None
        if stored is not None and stored.sha256 == sha256:
            duplicate_of = stored.duplicate_of
        elif original is not None and self._duplicates == "link":
            duplicate_of = original.id
        now = datetime.now(UTC)
        image = StoredImage(
            id=image_id,
            url=new.url or "",
            uri=_uri(new),
            metadata=new.metadata,
            sha256=sha256,
            media_type=picture.media_type,
            width_px=picture.width_px,
            height_px=picture.height_px,
            size_bytes=len(content),
            create_time=new.create_time or (stored.create_time if stored else now),
            update_time=now,
            duplicate_of=duplicate_of,
        )
        with stage("upsert"):
            await self._index.upsert([image], picture.embedding[None])
        if stored is not None:
            return AddedImage(image, AddOutcome.REPLACED)
        if duplicate_of is not None:
            return AddedImage(image, AddOutcome.DUPLICATE, duplicate_of)
        return AddedImage(image, AddOutcome.ADDED)

    async def import_images(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        """Stores images that this model embedded, as they are, in place of those with their ids;
        returns when that is durable.

        ``embeddings`` is (len(images), d), each row finite and of L2 norm 1.
        """
        async with AsyncExitStack() as turns:
            # An add of one of the ids must not act upon what is being replaced. Taken in the order
            # of the ids, so that no two imports wait for each other; once, should an id come twice.
            for image_id in sorted({image.id for image in images}):
                await turns.enter_async_context(self._turns.take(image_id))
            with stage("upsert"):
                await self._index.upsert(images, embeddings)
        IMAGES_ADDED.labels("imported").inc(len(images))

    async def _picture_of(self, image: StoredImage) -> Picture | None:
        """Returns what is stored of an image's content; None if the image is gone."""
        page = await self._index.list_embedded(limit=1, start_id=image.id)
        if [(found.id, found.sha256) for found in page.images] != [(image.id, image.sha256)]:
            return None
        return Picture(image.media_type, image.width_px, image.height_px, page.embeddings[0])

    async def _original_of(self, twin: StoredImage) -> StoredImage:
        """Returns the image that others of this one's content are duplicates of."""
        if twin.duplicate_of is None:
            return twin
        found = await self._index.get([twin.duplicate_of])
        return found[0] if found and found[0].sha256 == twin.sha256 else twin


def _derived_id(url: str | None, sha256: str) -> UUID:
    """The UUIDv5 (RFC 9562, URL namespace) of an image that was given no id of its own."""
    return uuid5(NAMESPACE_URL, url if url is not None else f"sha256:{sha256}")


def _uri(new: NewImage) -> str:
    return new.uri or new.url or ""


def _is_same(stored: StoredImage, new: NewImage, sha256: str) -> bool:
    if new.create_time not in (None, stored.create_time):
        return False
    return (stored.sha256, stored.url, stored.uri, _canonical(stored.metadata)) == (
        sha256,
        new.url or "",
        _uri(new),
        _canonical(new.metadata),
    )


def _canonical(metadata: Metadata) -> str:
    return json.dumps(metadata, sort_keys=True)  # to Python, true equals 1
