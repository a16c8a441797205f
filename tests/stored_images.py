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

from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.indexes.qdrant.collection import CollectionLayout
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.ports import Embeddings, ImageIndex, IndexedField, StoredImage
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
            await client.delete_collection(name)
            await client.close()
        return
    async with EdgeIndex(
        data_dir,
        collection="images",
        model_id="test",
        fingerprint="0" * 64,
        embedding_dim=DIM,
        optimize_after_points=1_000_000,
        max_in_flight=1000,
        timeout_s=30,
        indexed_fields=indexed_fields,
    ) as index:
        yield index


def _qdrant_index(
    server: QdrantServer, collection: str, indexed_fields: Sequence[IndexedField]
) -> QdrantIndex:
    return QdrantIndex(
        server,
        collection=collection,
        model_id="test",
        fingerprint="0" * 64,
        embedding_dim=DIM,
        layout=CollectionLayout(),
        max_in_flight=1000,
        timeout_s=30,
        indexed_fields=indexed_fields,
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
