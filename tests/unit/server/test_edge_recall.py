"""How much a search of the embedded index's graph finds, by how many candidates it keeps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.indexes.edge.folder import CollectionFolder
from clipsearch_server.indexes.edge.protocol import Points
from clipsearch_server.indexes.edge.shard import Shard
from clipsearch_server.indexes.points import to_payload
from clipsearch_server.ports import Embeddings, NearestQuery
from edge_indexes import an_edge_index
from stored_images import a_spec, an_image

DIM = 4096  # so that the fewest points that get a graph, 10 MB of them, are few
POINTS = 650
SPEC = a_spec(dim=DIM)


async def test_more_candidates_find_more(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((POINTS, DIM)).astype(np.float32)
    await asyncio.to_thread(store_with_graph, tmp_path, embeddings)
    queries = [
        NearestQuery(embedding=embedding, limit=1)
        for embedding in random.standard_normal((8, DIM)).astype(np.float32)
    ]
    few = await recall(tmp_path, queries, hnsw_ef=1)
    assert await recall(tmp_path, queries, hnsw_ef=POINTS) > few


def store_with_graph(data_dir: Path, embeddings: Embeddings) -> None:
    """As the server would, without the processes that it starts for that."""
    folder = CollectionFolder(data_dir / "collections" / "images-1")
    shard = Shard.create(folder.stage(CollectionCard(spec=SPEC)), DIM)
    images = [an_image(number) for number in range(len(embeddings))]
    points = Points([it.id for it in images], embeddings, [to_payload(it) for it in images])
    shard.upsert(shard.convert(points))
    shard.optimize()
    shard.close()
    folder.commit()


async def recall(data_dir: Path, queries: list[NearestQuery], *, hnsw_ef: int) -> float:
    """Returns the share of queries whose nearest image is found."""
    exact = [replace(query, exact=True) for query in queries]
    async with an_edge_index(data_dir, SPEC, hnsw_ef=hnsw_ef) as index:
        answers, nearest = await index.search(queries), await index.search(exact)
    right = [hit.id == best.id for (hit,), (best,) in zip(answers, nearest, strict=True)]
    return sum(right) / len(queries)
