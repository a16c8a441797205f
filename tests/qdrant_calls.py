"""The Qdrant adapter on a fake server, and a call of each of its methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np

from clipsearch_server.indexes.qdrant.collection import CollectionLayout
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.indexes.qdrant.store import QdrantStore
from clipsearch_server.ports import CollectionSpec, NearestQuery, StoredImage
from fake_qdrant import FakeQdrant

DIM = 4
BORN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
VECTOR = np.array([1, 0, 0, 0], np.float32)
NEAREST = NearestQuery(embedding=VECTOR, limit=1)
WAIT_S = 10.0  # for what takes milliseconds; CI's cores are shared


def a_spec(fingerprint: str = "f" * 64) -> CollectionSpec:
    return CollectionSpec(model_id="model", fingerprint=fingerprint, embedding_dim=DIM)


def a_store(
    qdrant: FakeQdrant,
    *,
    api_key: str = "",
    fingerprint: str = "f" * 64,
    layout: CollectionLayout | None = None,
    max_in_flight: int = 10,
    timeout_s: float = WAIT_S,
) -> QdrantStore:
    return QdrantStore(
        QdrantServer(url=qdrant.url, api_key=api_key),
        default="images",
        spec=a_spec(fingerprint),
        layout=layout or CollectionLayout(),
        hnsw_ef=100,
        max_in_flight=max_in_flight,
        timeout_s=timeout_s,
    )


@asynccontextmanager
async def an_index(qdrant: FakeQdrant, **options: Any) -> AsyncIterator[QdrantIndex]:
    """The index of the default collection."""
    async with a_store(qdrant, **options) as store:
        yield await store.open((await store.find("images")).name)


@asynccontextmanager
async def an_impatient_index(qdrant: FakeQdrant) -> AsyncIterator[QdrantIndex]:
    """Another of that collection, which is there already, whose calls may take 0.5 s."""
    server = QdrantServer(url=qdrant.url)
    client = await asyncio.to_thread(server.connect, 1)
    try:
        async with QdrantIndex(
            client,
            "images-1",
            spec=a_spec(),
            address=server.address,
            server_version=qdrant.version,
            hnsw_ef=100,
            max_in_flight=10,
            timeout_s=0.5,
        ) as index:
            yield index
    finally:
        await client.close()


def an_image(number: int, **changes: Any) -> StoredImage:
    values: dict[str, Any] = {
        "id": UUID(int=number),
        "url": "",
        "uri": "",
        "metadata": {},
        "sha256": "a" * 64,
        "media_type": "image/png",
        "width_px": 640,
        "height_px": 480,
        "size_bytes": 12_345,
        "create_time": BORN,
        "update_time": BORN,
    }
    return StoredImage(**(values | changes))


Call = Callable[[QdrantIndex], Awaitable[Any]]
READS: list[Call] = [
    lambda index: index.count(),
    lambda index: index.search([NEAREST]),
    lambda index: index.get_embeddings([UUID(int=1)]),
    lambda index: index.get([UUID(int=1)]),
    lambda index: index.find(UUID(int=1), "a" * 64),
    lambda index: index.list(limit=1),
    lambda index: index.list_embedded(limit=1),
]
READ_METHODS = ["Count", "QueryBatch", "Get", "Get", "Scroll", "Scroll", "Scroll"]
WRITES: list[Call] = [
    lambda index: index.upsert([an_image(1)], VECTOR[None]),
    lambda index: index.delete([UUID(int=1)]),
]
WRITE_METHODS = ["Upsert", "Delete"]
ALL = [*zip(READS, READ_METHODS, strict=True), *zip(WRITES, WRITE_METHODS, strict=True)]
