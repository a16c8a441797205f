"""What the service does with a model, without how: add, query and import images.

Each method reads top to bottom and takes each step by one call. Nothing here knows of gRPC, of ONNX
or of Qdrant.
"""

from __future__ import annotations

from collections.abc import Sequence

from clipsearch_server.adding import AddedImage, ImageAdder, NewImage
from clipsearch_server.ports import (
    Embeddings,
    ImageIndex,
    Revision,
    StoredImage,
)
from clipsearch_server.searching import Found, ImageSearcher, Query
from clipsearch_server.stages import Stages
from clipsearch_server.text_embedding import EmbeddedText, PromptedText, TextEmbedder


class SearchEngine:
    """One collection, and the model that fills and searches it.

    ``collection`` is the collection's own name, not an alias, and ``prompt_templates`` what it puts
    texts into unless a query brings others. What a port raises is passed on.
    """

    def __init__(
        self,
        *,
        adder: ImageAdder,
        searcher: ImageSearcher,
        texts: TextEmbedder,
        index: ImageIndex,
        collection: str,
        model_fingerprint: str,
        prompt_templates: Sequence[str] = (),
    ) -> None:
        self.collection = collection
        self.model_fingerprint = model_fingerprint
        self.prompt_templates = tuple(prompt_templates)
        self._adder = adder
        self._searcher = searcher
        self._texts = texts
        self._index = index

    @property
    def revision(self) -> Revision | None:
        """Stands for what is stored; see `ImageIndex.revision`."""
        return self._index.revision

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

    async def import_images(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        """Stores images that this model embedded; see `ImageAdder.import_images`."""
        await self._adder.import_images(images, embeddings)
