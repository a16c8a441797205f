"""Collapse and diversity, against the plainest way to compute them and against Qdrant's own."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge
from hypothesis import given
from hypothesis import strategies as st

from clipsearch_server.ports import Embedding, Embeddings
from clipsearch_server.ranking import collapse, diversify

DIM = 8


def ranked(count: int, seed: int, spread: float = 0.5) -> tuple[list[float], Embeddings]:
    """Embeddings in a few clusters, best first by their scores for a query."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((3, DIM))
    rows = centres[random.integers(0, 3, count)] + spread * random.standard_normal((count, DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    scores = rows @ query_of(seed)
    order = np.argsort(-scores, kind="stable")
    return scores[order].tolist(), rows[order]


def query_of(seed: int) -> Embedding:
    query = np.random.default_rng(seed + 1).standard_normal(DIM)
    return (query / np.linalg.norm(query)).astype(np.float32)


def naive_collapse(embeddings: Embeddings, similarity: float) -> dict[int, int]:
    kept: dict[int, int] = {}
    for rank, row in enumerate(embeddings):
        for leader in kept:
            if float(row @ embeddings[leader]) >= similarity:
                kept[leader] += 1
                break
        else:
            kept[rank] = 0
    return kept


def check_order(
    order: list[int], scores: list[float], embeddings: Embeddings, diversity: float
) -> None:
    """Each is as good a next one as any, but for the rounding of float32."""
    assert sorted(order) == list(range(len(scores)))
    for place, chosen in enumerate(order):

        def value(rank: int, before: list[int] = order[:place]) -> float:
            if not before:
                return scores[rank]
            nearest = max(float(embeddings[rank] @ embeddings[it]) for it in before)
            return (1 - diversity) * scores[rank] - diversity * nearest

        assert value(chosen) >= max(map(value, order[place:])) - 1e-5


@given(st.integers(1, 40), st.integers(0, 999), st.floats(0.3, 0.999))
def test_each_image_is_left_out_by_the_first_kept_one_that_it_is_like(
    count: int, seed: int, similarity: float
) -> None:
    _, embeddings = ranked(count, seed)
    kept = collapse(embeddings, similarity)
    assert kept == naive_collapse(embeddings, similarity)
    assert len(kept) + sum(kept.values()) == count


def test_an_image_is_nearly_the_same_as_its_copy_at_any_similarity() -> None:
    _, embeddings = ranked(20, seed=3)
    twice = np.repeat(embeddings, 2, axis=0)
    assert collapse(twice, 1.0) == dict.fromkeys(range(0, 40, 2), 1)


@given(st.integers(1, 30), st.integers(0, 999), st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0]))
def test_the_order_is_that_of_maximal_marginal_relevance(
    count: int, seed: int, diversity: float
) -> None:
    scores, embeddings = ranked(count, seed)
    order = diversify(scores, embeddings, diversity, count)
    check_order(order, scores, embeddings, diversity)
    for some in (1, count // 2):
        assert diversify(scores, embeddings, diversity, some) == order[:some]


def test_of_copies_all_but_one_come_last() -> None:
    scores, embeddings = ranked(4, seed=5)
    order = diversify(np.repeat(scores, 2).tolist(), np.repeat(embeddings, 2, axis=0), 0.6, 8)
    assert sorted(rank // 2 for rank in order[:4]) == [0, 1, 2, 3]


@pytest.mark.parametrize("diversity", [0.2, 0.5, 0.9])
def test_qdrant_finds_the_same_order(tmp_path: Path, diversity: float) -> None:
    """Its Mmr takes the share of the score, where we take that of the difference."""
    count, seed = 60, 11
    scores, embeddings = ranked(count, seed)
    vectors = edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(str(tmp_path), edge.EdgeConfig(vectors=vectors))
    try:
        points = [edge.Point(UUID(int=n), row.tolist(), {}) for n, row in enumerate(embeddings)]
        shard.update(edge.UpdateOperation.upsert_points(points))
        found = shard.query(
            edge.QueryRequest(
                query=edge.Mmr(query_of(seed).tolist(), 1 - diversity, count), limit=25
            )
        )
    finally:
        shard.close()
    assert [it.id.int for it in found] == diversify(scores, embeddings, diversity, 25)
