"""The Qdrant adapter on a fake server, and a call of each of its methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np

from clipsearch_server.indexes.qdrant.collection import CollectionLayout
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.ports import NearestQuery, StoredImage
from fake_qdrant import FakeQdrant

DIM = 4
BORN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
VECTOR = np.array([1, 0, 0, 0], np.float32)
NEAREST = NearestQuery(embedding=VECTOR, limit=1)
WAIT_S = 10.0  # for what takes milliseconds; CI's cores are shared


def an_index(
    qdrant: FakeQdrant,
    *,
    api_key: str = "",
    fingerprint: str = "f" * 64,
    layout: CollectionLayout | None = None,
    max_in_flight: int = 10,
    timeout_s: float = WAIT_S,
) -> QdrantIndex:
    return QdrantIndex(
        QdrantServer(url=qdrant.url, api_key=api_key),
        collection="images",
        model_id="model",
        fingerprint=fingerprint,
        embedding_dim=DIM,
        layout=layout or CollectionLayout(),
        max_in_flight=max_in_flight,
        timeout_s=timeout_s,
    )


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
    lambda index: index.find_content("a" * 64),
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
