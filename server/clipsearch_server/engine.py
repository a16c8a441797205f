"""What the service does, without how: add, query, get, list, delete, export and import images.

Each method reads top to bottom and takes each step by one call. Nothing here knows of gRPC, of ONNX
or of Qdrant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from clipsearch_server.adding import AddedImage, ImageAdder, NewImage
from clipsearch_server.errors import ImageNotFound
from clipsearch_server.ports import (
    EmbeddedPage,
    Embeddings,
    Encoder,
    ImageIndex,
    ImagePage,
    StoredImage,
)
from clipsearch_server.searching import Found, ImageSearcher, Query
from clipsearch_server.stages import Stages
from clipsearch_server.text_embedding import EmbeddedText, PromptedText, TextEmbedder

# On a page of an export: what is read, and held in memory, at a time.
_EXPORT_PAGE_SIZE = 64


class SearchEngine:
    """One collection, and the model that fills and searches it.

    ``collection`` is the collection's own name, not an alias, and ``prompt_templates`` what it puts
    texts into unless a query brings others. What a port raises is passed on.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        index: ImageIndex,
        adder: ImageAdder,
        searcher: ImageSearcher,
        texts: TextEmbedder,
        collection: str,
        prompt_templates: Sequence[str] = (),
    ) -> None:
        self.collection = collection
        self.prompt_templates = tuple(prompt_templates)
        self._encoder = encoder
        self._index = index
        self._adder = adder
        self._searcher = searcher
        self._texts = texts

    async def add(self, new: NewImage) -> AddedImage:
        """Adds one image; see `ImageAdder.add`."""
        return await self._adder.add(new)

    async def search(self, queries: Sequence[Query], stages: Stages) -> list[Found]:
        """Finds a page of images for each query; see `ImageSearcher.search`."""
        return await self._searcher.search(queries, stages)

    async def embed_texts(
        self, texts: Sequence[PromptedText], stages: Stages
    ) -> list[EmbeddedText]:
        """Embeds texts as a query would; see `TextEmbedder.embed`."""
        return await self._texts.embed(texts, stages)

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

    async def export_images(self, *, start_id: UUID | None = None) -> AsyncIterator[EmbeddedPage]:
        """Yields all images whose id is at least start_id with their embeddings, ordered by id.

        A page is read when it is asked for, so what is added or deleted meanwhile may show or not.
        """
        while True:
            page = await self._index.list_embedded(limit=_EXPORT_PAGE_SIZE, start_id=start_id)
            yield page
            if page.next_id is None:
                return
            start_id = page.next_id

    async def import_images(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        """Stores images that this model embedded; see `ImageAdder.import_images`."""
        await self._adder.import_images(images, embeddings)

    async def count(self) -> int:
        """Returns the number of images."""
        return await self._index.count()

    @property
    def encoder_description(self) -> str:
        """What runs the model: for people."""
        return self._encoder.description

    @property
    def index_description(self) -> str:
        """What stores the embeddings: for people."""
        return self._index.description
