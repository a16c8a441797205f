"""What the tests of the contract of ImageIndex store, and where."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from clipsearch_server.indexes.qdrant.collection import CollectionLayout
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.store import QdrantStore
from clipsearch_server.ports import (
    CollectionSpec,
    Embeddings,
    ImageIndex,
    IndexedField,
    StoredImage,
)
from edge_indexes import an_edge_index
from in_memory_qdrant import InMemoryQdrant

DIM = 16
BORN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
KINDS = ("edge", "qdrant", "qdrant-server")
TEST_QDRANT = "CLIPSEARCH_TEST_QDRANT_URL"  # http://host:port of a real server's gRPC interface


@asynccontextmanager
async def an_open_index(
    kind: str, data_dir: Path, indexed_fields: Sequence[IndexedField] = ()
) -> AsyncIterator[ImageIndex]:
    """Skips the test if no real Qdrant server is named."""
    if kind == "qdrant":
        server = InMemoryQdrant(url="http://in-memory")
        async with _qdrant_index(server, "images", indexed_fields) as qdrant:
            yield qdrant
        return
    if kind == "qdrant-server":
        url = os.environ.get(TEST_QDRANT)  # noqa: TID251 - of the tests, not of the server
        if url is None:
            pytest.skip(f"{TEST_QDRANT} names no Qdrant server")
        remote, name = QdrantServer(url=url), f"test-{uuid.uuid4()}"
        try:
            async with _qdrant_index(remote, name, indexed_fields) as qdrant:
                yield qdrant
        finally:
            client = await asyncio.to_thread(remote.connect, 30)
            await client.delete_collection(f"{name}-1")
            await client.close()
        return
    async with an_edge_index(data_dir, a_spec(indexed_fields)) as index:
        yield index


@asynccontextmanager
async def _qdrant_index(
    server: QdrantServer, name: str, indexed_fields: Sequence[IndexedField]
) -> AsyncIterator[ImageIndex]:
    async with a_qdrant_store(server, name, a_spec(indexed_fields)) as store:
        yield await store.open(f"{name}-1")


def a_qdrant_store(server: QdrantServer, default: str, spec: CollectionSpec) -> QdrantStore:
    return QdrantStore(
        server,
        default=default,
        spec=spec,
        layout=CollectionLayout(),
        hnsw_ef=100,
        max_in_flight=1000,
        timeout_s=30,
    )


def a_spec(
    indexed_fields: Sequence[IndexedField] = (), *, fingerprint: str = "0" * 64, dim: int = DIM
) -> CollectionSpec:
    return CollectionSpec(
        model_id="test",
        fingerprint=fingerprint,
        embedding_dim=dim,
        indexed_fields=tuple(indexed_fields),
    )


def an_image(number: int, **changes: Any) -> StoredImage:
    values: dict[str, Any] = {
        "id": UUID(int=number),
        "url": f"https://example.org/{number}",
        "uri": f"picture {number}",
        "metadata": {},
        "sha256": f"{number:064x}",
        "media_type": "image/png",
        "width_px": 640,
        "height_px": 480,
        "size_bytes": 12_345,
        "create_time": BORN,
        "update_time": BORN + timedelta(microseconds=number % 1000),
    }
    return StoredImage(**(values | changes))


def embeddings(n: int, seed: int = 0) -> Embeddings:
    vectors = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
