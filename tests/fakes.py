"""Fakes of the server's ports. What they promise, `contract/` tests."""

from __future__ import annotations

import asyncio
import builtins  # FakeIndex has a method named list
from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.budget import Budget
from clipsearch_server.errors import (
    CollectionExists,
    CollectionInUse,
    CollectionNotFound,
    IndexUnavailable,
    SourceFailed,
)
from clipsearch_server.image import decode_image
from clipsearch_server.ports import (
    CollectionSpec,
    DecodedImage,
    EmbeddedPage,
    Embeddings,
    FoundCollection,
    ImagePage,
    NearestQuery,
    Pixels,
    Revision,
    ScoredId,
    StoredImage,
    TokenIds,
)
from filtering import passes


class FakeEncoder:
    """Knows three colours: an image is its mean colour, a text the tokens 3, 4 and 5 it holds.

    Waits before each answer until ``gate`` is set, which it is at first; raises ``fail_with``, if
    set.
    """

    description = "fake"

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.images_embedded = 0
        self.text_calls: list[int] = []  # how many texts each brought
        self.most_waiting = 0  # calls at the gate at one time
        self._waiting = 0
        self._changed = asyncio.Condition()

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        await self._pass()
        self.text_calls.append(len(token_ids))
        counts = [(token_ids == token_id).sum(axis=1) for token_id in (3, 4, 5)]
        return _unit(np.stack(counts, axis=1))

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        await self._pass()
        self.images_embedded += len(pixels)
        return _unit(pixels.mean(axis=(2, 3)))

    async def health(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    async def until_waiting(self, calls: int) -> None:
        """Returns once exactly so many calls wait at the gate."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting == calls)

    async def _pass(self) -> None:
        await self._count(1)
        try:
            await self.gate.wait()
        finally:
            await self._count(-1)
        if self.fail_with is not None:
            raise self.fail_with

    async def _count(self, change: int) -> None:
        async with self._changed:
            self._waiting += change
            self.most_waiting = max(self.most_waiting, self._waiting)
            self._changed.notify_all()


class InProcessDecoder:
    """Decodes for real, without a process of its own."""

    def __init__(self, *, size_px: int, max_pixels: int) -> None:
        self._size_px = size_px
        self._max_pixels = max_pixels

    async def decode(self, content: bytes) -> DecodedImage:
        return await asyncio.to_thread(
            decode_image,
            content,
            size_px=self._size_px,
            resize_px=self._size_px,
            resample="bicubic",
            max_pixels=self._max_pixels,
        )


class FakeFetcher:
    """Delivers ``bodies`` by their URL, as there is memory for them; any other URL is a 404."""

    def __init__(self, memory: Budget) -> None:
        self.bodies: dict[str, bytes] = {}
        self.headers: dict[str, Mapping[str, str]] = {}  # as they came, by URL
        self._memory = memory

    async def fetch(self, url: str, headers: Mapping[str, str]) -> bytes:
        self.headers[url] = headers
        if url not in self.bodies:
            raise SourceFailed(
                "the host answered 404", reason="SOURCE_HTTP_STATUS", retryable=False, status="404"
            )
        body = self.bodies[url]
        await self._memory.acquire(len(body))
        return body


class FakeIndex:
    """Keeps images and embeddings in memory; raises ``fail_with``, if set."""

    description = "fake"

    def __init__(self, embedding_dim: int = 3) -> None:
        self.fail_with: Exception | None = None
        self._embedding_dim = embedding_dim
        self._stored: dict[UUID, tuple[StoredImage, NDArray[np.float32]]] = {}
        self._changes = 0
        self.searches = 0  # that were asked for

    @property
    def revision(self) -> Revision | None:
        return None if self.fail_with is not None else (id(self), self._changes)

    async def upsert(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        await self.health()
        if embeddings.shape != (len(images), self._embedding_dim):
            raise ValueError(f"embeddings of {len(images)} images are {embeddings.shape}")
        if not np.isfinite(embeddings).all():
            raise ValueError("an embedding is not finite")
        self._changes += 1
        self._stored |= {
            image.id: (image, embedding)
            for image, embedding in zip(images, embeddings, strict=True)
        }

    async def search(
        self, queries: Sequence[NearestQuery]
    ) -> builtins.list[builtins.list[ScoredId]]:
        await self.health()
        self.searches += len(queries)
        return [self._nearest(query) for query in queries]

    async def get_embeddings(self, ids: Sequence[UUID]) -> dict[UUID, NDArray[np.float32]]:
        await self.health()
        return {image_id: self._stored[image_id][1] for image_id in ids if image_id in self._stored}

    async def get(self, ids: Sequence[UUID]) -> builtins.list[StoredImage]:
        await self.health()
        return [self._stored[image_id][0] for image_id in ids if image_id in self._stored]

    async def find(
        self, image_id: UUID, sha256: str
    ) -> tuple[StoredImage | None, StoredImage | None]:
        await self.health()
        stored = self._stored.get(image_id)
        twin = next((image for image in self._by_id() if image.sha256 == sha256), None)
        return stored[0] if stored else None, twin

    async def list(self, *, limit: int, start_id: UUID | None = None) -> ImagePage:
        await self.health()
        images = [image for image in self._by_id() if start_id is None or image.id >= start_id]
        return ImagePage(images[:limit], images[limit].id if len(images) > limit else None)

    async def list_embedded(self, *, limit: int, start_id: UUID | None = None) -> EmbeddedPage:
        page = await self.list(limit=limit, start_id=start_id)
        embeddings = np.empty((len(page.images), self._embedding_dim), np.float32)
        for row, image in enumerate(page.images):
            embeddings[row] = self._stored[image.id][1]
        return EmbeddedPage(page.images, embeddings, page.next_id)

    async def delete(self, ids: Sequence[UUID]) -> None:
        await self.health()
        self._changes += 1
        for image_id in ids:
            self._stored.pop(image_id, None)

    async def count(self) -> int:
        await self.health()
        return len(self._stored)

    async def health(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    def _nearest(self, query: NearestQuery) -> builtins.list[ScoredId]:
        if (
            query.embedding.shape != (self._embedding_dim,)
            or not np.isfinite(query.embedding).all()
        ):
            raise ValueError(f"not a finite embedding of {self._embedding_dim} dimensions")
        hits = [
            ScoredId(image.id, float(stored @ query.embedding))
            for image, stored in self._stored.values()
            if image.id not in query.exclude
            and (query.filter is None or passes(image, query.filter))
        ]
        if query.score_threshold is not None:
            hits = [hit for hit in hits if hit.score >= query.score_threshold]
        best = sorted(hits, key=lambda hit: (-hit.score, hit.id))[: query.limit]
        return best[: query.first]

    def _by_id(self) -> builtins.list[StoredImage]:
        return [self._stored[image_id][0] for image_id in sorted(self._stored)]


class FakeStore:
    """Keeps collections and aliases in memory; ``default`` is the alias of the first collection,
    whose index may be given."""

    description = "fake"

    def __init__(self, default: str, spec: CollectionSpec, index: FakeIndex | None = None) -> None:
        name = f"{default}-1"
        self._specs = {name: spec}
        self._aliases = {default: name}
        self._indexes = {name: index or FakeIndex(spec.embedding_dim)}

    async def find(self, name: str, *, anew: bool = False) -> FoundCollection:
        own_name = self._aliases.get(name, name)
        if own_name not in self._specs:
            raise CollectionNotFound(name)
        return FoundCollection(own_name, self._specs[own_name])

    async def collections(self) -> Mapping[str, CollectionSpec]:
        return dict(self._specs)

    async def aliases(self) -> Mapping[str, str]:
        return dict(self._aliases)

    async def open(self, name: str) -> FakeIndex:
        self._require(name)
        return self._indexes[name]

    async def create(self, name: str, spec: CollectionSpec) -> None:
        if name in self._specs or name in self._aliases:
            raise CollectionExists(name)
        self._specs[name], self._indexes[name] = spec, FakeIndex(spec.embedding_dim)

    async def update(self, name: str, spec: CollectionSpec) -> None:
        self._require(name)
        self._specs[name] = spec

    async def delete(self, name: str) -> None:
        self._require(name)
        if name in self._aliases.values():
            raise CollectionInUse(f"{name} has an alias")
        del self._specs[name]
        self._indexes.pop(name).fail_with = IndexUnavailable("the index is closed")

    async def set_alias(self, alias: str, collection: str) -> None:
        self._require(collection)
        if alias in self._specs:
            raise CollectionExists(alias)
        self._aliases[alias] = collection

    async def delete_alias(self, alias: str) -> None:
        if alias not in self._aliases:
            raise CollectionNotFound(alias, "alias")
        del self._aliases[alias]

    def _require(self, name: str) -> None:
        if name not in self._specs:
            raise CollectionNotFound(name)


def _unit(vectors: np.ndarray) -> Embeddings:
    vectors = vectors.astype(np.float32) + 1e-3  # black and wordless have a direction too
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
