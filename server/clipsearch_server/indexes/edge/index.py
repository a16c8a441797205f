"""The embedded index: Qdrant Edge in a process of its own, on a folder of ours.

docs/decisions/0001-edge-in-its-own-process.md says why; the modules beside this one are its parts.
"""

from __future__ import annotations

import builtins  # EdgeIndex has a method named list
from collections.abc import Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from importlib.metadata import version
from types import TracebackType
from typing import Self
from uuid import UUID

import numpy as np

from clipsearch_server.errors import (
    DeadlineExceeded,
    IndexUnavailable,
    StartupError,
    StorageFull,
)
from clipsearch_server.indexes.admission import Admission
from clipsearch_server.indexes.edge.folder import CollectionFolder
from clipsearch_server.indexes.edge.live import LiveShard
from clipsearch_server.indexes.edge.protocol import (
    MAX_POINTS,
    MAX_QUERIES,
    CopyPage,
    Count,
    Delete,
    Find,
    Get,
    GetEmbeddings,
    Hits,
    Points,
    Probe,
    Scroll,
    Search,
    Upsert,
)
from clipsearch_server.indexes.fields import IMAGE_FIELDS
from clipsearch_server.indexes.points import (
    any_query,
    checked_embedding,
    checked_embeddings,
    from_payload,
    to_payload,
)
from clipsearch_server.ports import (
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

DESCRIPTION = f"qdrant-edge {version('qdrant-edge-py')}"


class EdgeIndex:
    """Implements ImageIndex on the folder of a collection; every process of it inherits the
    descriptor ``lock``.

    A search goes through the points one by one until ``optimize_after_points`` are new, and a fifth
    of all, those that replaced others included; then a search graph is built aside, without what
    was replaced and deleted, and nothing stops meanwhile (rebuild.py). Of the graph, a search keeps
    the best ``hnsw_ef`` points that it meets, or as many as it is to find. Besides what the port
    says, calls raise Overloaded if ``max_in_flight`` are under way, those whose callers have given
    up included until the process has answered them.

    Entering raises StartupError if something in the folder is damaged.
    """

    def __init__(
        self,
        folder: CollectionFolder,
        *,
        lock: int,
        embedding_dim: int,
        indexed_fields: Sequence[IndexedField],
        optimize_after_points: int,
        hnsw_ef: int,
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._embedding_dim = embedding_dim
        self._indexed_fields = (*IMAGE_FIELDS, *indexed_fields)
        self._optimize_after_points = optimize_after_points
        self._hnsw_ef = hnsw_ef
        self._timeout_s = timeout_s
        self._shard: LiveShard
        self._stack = AsyncExitStack()
        self._calls = Admission(max_in_flight)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            try:
                self._shard = await stack.enter_async_context(
                    LiveShard(
                        self._folder,
                        lock=self._lock,
                        embedding_dim=self._embedding_dim,
                        indexed_fields=self._indexed_fields,
                        optimize_after_points=self._optimize_after_points,
                        timeout_s=self._timeout_s,
                    )
                )
            except (OSError, IndexUnavailable, StorageFull) as error:
                raise StartupError(f"{self._folder.path}: {error}") from error
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuses new calls, waits for those under way (each has its time limit), stops."""
        try:
            await self._calls.close()
        finally:
            await self._stack.aclose()

    @property
    def description(self) -> str:
        return DESCRIPTION

    @property
    def revision(self) -> Revision | None:
        return self._shard.revision

    async def upsert(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        embeddings = checked_embeddings(embeddings, len(images), self._embedding_dim)
        with self._admitted():
            for start in range(0, len(images), MAX_POINTS):
                some = images[start : start + MAX_POINTS]
                ids = [image.id for image in some]
                vectors = embeddings[start : start + MAX_POINTS]
                payloads = [to_payload(image) for image in some]
                await self._shard.write(ids, Upsert(Points(ids, vectors, payloads)))
                self._shard.note_added(len(some))

    async def search(
        self, queries: Sequence[NearestQuery]
    ) -> builtins.list[builtins.list[ScoredId]]:
        for query in queries:
            checked_embedding(query.embedding, self._embedding_dim)
        answers: builtins.list[Hits] = []
        with self._admitted():
            for start in range(0, len(queries), MAX_QUERIES):
                some = queries[start : start + MAX_QUERIES]
                answers += await self._shard.read(Search(some, self._hnsw_ef))
        return [
            [ScoredId(id_, score, from_payload(id_, it) if it else None) for id_, score, it in hits]
            for hits in answers
        ]

    async def get_embeddings(self, ids: Sequence[UUID]) -> dict[UUID, Embedding]:
        with self._admitted():
            found: dict[UUID, Embedding] = await self._shard.read(GetEmbeddings(ids))
        return found

    async def get(self, ids: Sequence[UUID]) -> list[StoredImage]:
        with self._admitted():
            found = dict(await self._shard.read(Get(ids)))
        return [from_payload(image_id, found[image_id]) for image_id in ids if image_id in found]

    async def find(
        self, image_id: UUID, sha256: str
    ) -> tuple[StoredImage | None, StoredImage | None]:
        with self._admitted():
            of_id, of_content = await self._shard.read(Find(image_id, sha256))
        return (
            from_payload(*of_id[0]) if of_id else None,
            from_payload(*of_content[0]) if of_content else None,
        )

    async def list(self, *, limit: int, start_id: UUID | None = None) -> ImagePage:
        with self._admitted():
            entries, next_id = await self._shard.read(Scroll(limit, start_id))
        return ImagePage([from_payload(*entry) for entry in entries], next_id)

    async def list_embedded(self, *, limit: int, start_id: UUID | None = None) -> EmbeddedPage:
        images: list[StoredImage] = []
        vectors = [np.empty((0, self._embedding_dim), np.float32)]
        with self._admitted():
            while True:
                # In the queue of the writes and as small as one, so that searches go first.
                some = min(limit - len(images), MAX_POINTS)
                points, start_id = await self._shard.read(CopyPage(some, start_id))
                if points.ids:
                    images += map(from_payload, points.ids, points.payloads)
                    vectors.append(points.vectors)
                if start_id is None or len(images) >= limit:
                    return EmbeddedPage(images, np.concatenate(vectors), start_id)

    async def delete(self, ids: Sequence[UUID]) -> None:
        with self._admitted():
            for start in range(0, len(ids), MAX_POINTS):
                some = ids[start : start + MAX_POINTS]
                await self._shard.write(some, Delete(some))

    async def count(self) -> int:
        with self._admitted():
            count: int = await self._shard.read(Count())
        return count

    async def health(self) -> None:
        self._calls.require_open()
        try:
            await self._shard.read(Probe(any_query(self._embedding_dim)))
        except DeadlineExceeded as error:
            raise IndexUnavailable(error.message) from error

    async def add_indexed_fields(self, fields: Sequence[IndexedField]) -> None:
        """Has these fields of the metadata indexed; returns when the indexes are complete.

        In a collection of more than 20,000 images they are built aside, together with a search
        graph, which takes minutes; whoever gives up stops nothing. Raises StorageFull if there is
        no room for it, IndexUnavailable if a process died; the index then is as it was.
        """
        self._calls.require_open()
        await self._shard.add_indexed_fields(fields)

    async def optimize(self) -> None:
        """Builds the search graph over everything stored so far; calls are answered meanwhile.

        Raises StorageFull if there is no room for it, IndexUnavailable if a process died; the index
        then is as it was.
        """
        await self._shard.optimize()

    def _admitted(self) -> AbstractContextManager[None]:
        return self._calls.admitted(abandoned=self._shard.abandoned)
