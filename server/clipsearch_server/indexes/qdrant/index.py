"""The remote index: one collection of a Qdrant server or cluster."""

from __future__ import annotations

import asyncio
import builtins  # QdrantIndex has a method named list
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
from qdrant_client import AsyncQdrantClient, models

from clipsearch_server.batching import Batcher
from clipsearch_server.errors import (
    DeadlineExceeded,
    IndexUnavailable,
    ModelMismatch,
    Overloaded,
)
from clipsearch_server.indexes.admission import Admission
from clipsearch_server.indexes.points import (
    CONTENT_KEY,
    any_query,
    best_first,
    checked_embeddings,
    from_payload,
    to_payload,
)
from clipsearch_server.indexes.qdrant.faults import checking, completed, explained, is_of_one
from clipsearch_server.indexes.qdrant.open_collection import OpenCollection
from clipsearch_server.indexes.tasks import cancel
from clipsearch_server.ports import (
    CollectionSpec,
    EmbeddedPage,
    Embedding,
    Embeddings,
    ImagePage,
    IndexedField,
    NearestQuery,
    Revision,
    ScoredId,
    StoredImage,
)

# A point may be 50 KB: metadata of 16 KiB, which is kept twice, URLs, and the vector. So many stay
# below 4 MiB, which is as much as gRPC takes unless told otherwise, should a proxy stand between.
_MAX_POINTS = 64
_MAX_IDS = 1000

# In a cluster, two servers that write one image at the same time must not leave the copies of a
# shard different: one copy puts writes in order. It costs a hop, and nothing on a single node.
_ORDERING = models.WriteOrdering.MEDIUM


class QdrantIndex:
    """Implements ImageIndex on a collection of Qdrant's.

    It is never made anew: a collection that disappears is reported, and is served again when it is
    back. Besides what the port says, calls raise Overloaded if ``max_in_flight`` are under way, or
    if Qdrant says so.

    A write counts when Qdrant has applied it to every live copy of its shard: it waits for all, and
    takes a copy that failed out of use before it answers. So a read need ask one copy only, which
    is Qdrant's default, to see every acknowledged write. What concurrent calls store crosses in
    batches, each as soon as the one before is applied.

    Entering raises ModelMismatch if the collection holds anything but embeddings of the spec's
    model, IndexUnavailable if Qdrant cannot say.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        name: str,
        *,
        spec: CollectionSpec,
        address: str,
        server_version: str,
        hnsw_ef: int,
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._name = name
        self._spec = spec
        self._address = address
        self.description = f"qdrant {server_version} at {address}"
        self.revision: Revision | None = None  # other servers write to it too
        self._timeout_s = timeout_s
        self._collection = OpenCollection(
            client,
            name,
            spec=spec,
            address=address,
            server_version=server_version,
            hnsw_ef=hnsw_ef,
        )
        self._mismatch: ModelMismatch | None = None  # why calls cannot be served
        self._calls = Admission(max_in_flight)
        # One at a time: what comes twice is stored in its order.
        self._upserts: Batcher[models.PointStruct, None] = Batcher(
            self._upsert,
            name="upsert",
            max_batch=_MAX_POINTS,
            is_of_one=is_of_one,
            closed=self._calls.closed,
        )
        self._writer: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        async with checking(self._address, self._timeout_s):
            await self._collection.open()
        self._writer = asyncio.create_task(self._upserts.work(), name="upsert qdrant")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuses new calls, and waits for those under way: each has its time limit."""
        try:
            await self._calls.close()
        finally:
            await cancel(self._writer)

    async def upsert(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        vectors = checked_embeddings(embeddings, len(images), self._spec.embedding_dim).tolist()
        points = [
            models.PointStruct(id=image.id, vector=vector, payload=to_payload(image))
            for image, vector in zip(images, vectors, strict=True)
        ]
        async with self._call(write=True):
            await self._upserts.submit(points)

    async def search(
        self, queries: Sequence[NearestQuery]
    ) -> builtins.list[builtins.list[ScoredId]]:
        requests = self._collection.request(queries)
        async with self._call():
            answers = await self._client.query_batch_points(self._name, requests)
        return [
            [
                ScoredId(*hit)
                for hit in best_first((_uuid(it.id), it.score) for it in answer.points)[
                    : query.first
                ]
            ]
            for query, answer in zip(queries, answers, strict=True)
        ]

    async def get_embeddings(self, ids: Sequence[UUID]) -> dict[UUID, Embedding]:
        async with self._call():
            records = await self._client.retrieve(
                self._name, list(ids), with_payload=False, with_vectors=True
            )
        return {_uuid(record.id): np.array(record.vector, np.float32) for record in records}

    async def get(self, ids: Sequence[UUID]) -> list[StoredImage]:
        async with self._call():
            stored = await self._retrieve(ids)
        return [stored[image_id] for image_id in ids if image_id in stored]

    async def find(
        self, image_id: UUID, sha256: str
    ) -> tuple[StoredImage | None, StoredImage | None]:
        found, twin = await asyncio.gather(self.get([image_id]), self._find_content(sha256))
        return found[0] if found else None, twin

    async def _find_content(self, sha256: str) -> StoredImage | None:
        condition = models.FieldCondition(key=CONTENT_KEY, match=models.MatchValue(value=sha256))
        async with self._call():
            records, _ = await self._scroll(limit=1, filter=models.Filter(must=[condition]))
        return _image(records[0]) if records else None

    async def list(self, *, limit: int, start_id: UUID | None = None) -> ImagePage:
        async with self._call():
            records, next_id = await self._scroll(limit=limit, start_id=start_id)
        return ImagePage([_image(record) for record in records], next_id)

    async def list_embedded(self, *, limit: int, start_id: UUID | None = None) -> EmbeddedPage:
        async with self._call():
            records, next_id = await self._scroll(limit=limit, start_id=start_id, vectors=True)
        vectors: list[Any] = [record.vector for record in records]
        embeddings = np.array(vectors, dtype=np.float32).reshape(-1, self._spec.embedding_dim)
        return EmbeddedPage([_image(record) for record in records], embeddings, next_id)

    async def delete(self, ids: Sequence[UUID]) -> None:
        async with self._call(write=True):
            for start in range(0, len(ids), _MAX_IDS):
                some = models.PointIdsList(points=list(ids[start : start + _MAX_IDS]))
                await completed(
                    self._client.delete(self._name, some, wait=True, ordering=_ORDERING)
                )

    async def count(self) -> int:
        async with self._call():
            return (await self._client.count(self._name, exact=True)).count

    async def add_indexed_fields(self, fields: Sequence[IndexedField]) -> None:
        """Has these fields of the metadata indexed; returns when the indexes are complete. Raises
        what a write does."""
        async with self._call(write=True):
            await self._collection.add_indexed_fields(fields)

    async def health(self) -> None:
        self._calls.require_open()
        try:
            async with checking(self._address, self._timeout_s):
                await self._collection.check()
        except ModelMismatch as error:
            self._mismatch = error
            raise
        self._mismatch = None
        try:
            await self.search([any_query(self._spec.embedding_dim)])
        except Overloaded:
            pass  # it is at work, and healthy
        except DeadlineExceeded as error:
            raise IndexUnavailable(error.message) from error

    @asynccontextmanager
    async def _call(self, *, write: bool = False) -> AsyncIterator[None]:
        if self._mismatch is not None:
            # One exception is raised again and again: without this, its traceback would grow.
            raise self._mismatch.with_traceback(None)
        with self._calls.admitted(), explained(self._address, write=write):
            async with asyncio.timeout(self._timeout_s):
                yield

    async def _upsert(self, points: Sequence[models.PointStruct]) -> Sequence[None]:
        last = {point.id: point for point in points}
        await completed(
            self._client.upsert(self._name, list(last.values()), wait=True, ordering=_ORDERING)
        )
        return [None] * len(points)

    async def _retrieve(self, ids: Sequence[UUID]) -> dict[UUID, StoredImage]:
        if not ids:
            return {}
        records = await self._client.retrieve(self._name, list(ids), with_payload=True)
        return {_uuid(record.id): _image(record) for record in records}

    async def _scroll(
        self,
        *,
        limit: int,
        start_id: UUID | None = None,
        filter: models.Filter | None = None,
        vectors: bool = False,
    ) -> tuple[Sequence[models.Record], UUID | None]:
        records, next_id = await self._client.scroll(
            self._name,
            filter,
            limit=limit,
            offset=start_id,
            with_payload=True,
            with_vectors=vectors,
        )
        return records, None if next_id is None else _uuid(next_id)


def _image(record: models.Record) -> StoredImage:
    return from_payload(_uuid(record.id), record.payload or {})


def _uuid(point_id: Any) -> UUID:
    return point_id if isinstance(point_id, UUID) else UUID(str(point_id))
