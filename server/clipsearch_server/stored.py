"""What is done with stored images without their model: get, list, delete, count and export."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from clipsearch_server.errors import ImageNotFound
from clipsearch_server.ports import CollectionSpec, EmbeddedPage, ImageIndex, ImagePage, StoredImage

# On a page of an export: what is read, and held in memory, at a time.
_EXPORT_PAGE_SIZE = 64


class StoredImages:
    """The images of the collection of this name. What the index raises is passed on."""

    def __init__(self, name: str, spec: CollectionSpec, index: ImageIndex) -> None:
        self.name = name
        self.spec = spec
        self._index = index

    async def get(self, image_id: UUID) -> StoredImage:
        """Returns an image. Raises ImageNotFound."""
        found = await self._index.get([image_id])
        if not found:
            raise ImageNotFound(image_id)
        return found[0]

    async def list(self, *, limit: int, start_id: UUID | None = None) -> ImagePage:
        """Returns a page of images, ordered by id."""
        return await self._index.list(limit=limit, start_id=start_id)

    async def delete(self, image_id: UUID) -> None:
        """Deletes an image; returns when that is durable. Raises ImageNotFound."""
        await self.get(image_id)
        await self._index.delete([image_id])

    async def export(self, *, start_id: UUID | None = None) -> AsyncIterator[EmbeddedPage]:
        """Yields all images whose id is at least start_id with their embeddings, ordered by id.

        A page is read when it is asked for, so what is added or deleted meanwhile may show or not.
        """
        while True:
            page = await self._index.list_embedded(limit=_EXPORT_PAGE_SIZE, start_id=start_id)
            yield page
            if page.next_id is None:
                return
            start_id = page.next_id

    async def count(self) -> int:
        """Returns the number of images."""
        return await self._index.count()
