"""The embedded index of a data folder's default collection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.indexes.edge.store import EdgeStore
from clipsearch_server.ports import CollectionSpec


def an_edge_store(
    data_dir: Path,
    spec: CollectionSpec,
    *,
    optimize_after_points: int = 1_000_000,
    hnsw_ef: int = 100,
    timeout_s: float = 30,
    max_in_flight: int = 1000,
) -> EdgeStore:
    """Its default collection is named images."""
    return EdgeStore(
        data_dir,
        default="images",
        spec=spec,
        optimize_after_points=optimize_after_points,
        hnsw_ef=hnsw_ef,
        max_in_flight=max_in_flight,
        timeout_s=timeout_s,
    )


@asynccontextmanager
async def an_edge_index(
    data_dir: Path, spec: CollectionSpec, **options: float
) -> AsyncIterator[EdgeIndex]:
    async with an_edge_store(data_dir, spec, **options) as store:  # type: ignore[arg-type]
        yield await store.open("images-1")
