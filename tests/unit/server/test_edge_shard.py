"""A shard of Qdrant Edge refuses a filter that would keep it busy for too long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from clipsearch_server.errors import FilterRefused
from clipsearch_server.filters import Condition, Exists, Filter, MatchAny
from clipsearch_server.indexes.edge import filters as edge_filters
from clipsearch_server.indexes.edge.protocol import Points
from clipsearch_server.indexes.edge.shard import Shard
from clipsearch_server.indexes.points import to_payload
from clipsearch_server.ports import FieldType, IndexedField, NearestQuery
from stored_images import an_image

POINTS = 10
VECTORS = np.random.default_rng(0).standard_normal((POINTS, 4)).astype(np.float32)
FIVE = MatchAny("metadata.n", (1.0, 2.0, 3.0, 4.0, 5.0))  # of which Edge makes five conditions


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shard]:
    monkeypatch.setattr(edge_filters, "_MAX_TESTS", 5 * POINTS - 1)
    shard = Shard.create(tmp_path / "shard", 4)
    images = [an_image(n, metadata={"n": n}) for n in range(POINTS)]
    ids, payloads = [image.id for image in images], [to_payload(image) for image in images]
    shard.upsert(shard.convert(Points(ids, VECTORS, payloads)))
    yield shard
    shard.close()


def found(shard: Shard, *conditions: Condition) -> set[UUID]:
    filter = Filter(must=(Filter(must=conditions),))
    query = NearestQuery(embedding=VECTORS[0], limit=POINTS, filter=filter)
    (hits,) = shard.search(shard.convert_queries([query]), [None])
    return {image_id for image_id, _ in hits}


def test_many_tests_without_an_index_are_refused(shard: Shard) -> None:
    with pytest.raises(FilterRefused, match=r"5 times for each of 10 images.*\(metadata\.n\)"):
        found(shard, FIVE)


def test_few_tests_or_of_a_field_with_an_index_are_not(shard: Shard) -> None:
    assert len(found(shard, *[Exists("metadata.n")] * 4)) == POINTS
    shard.create_index(IndexedField("metadata.n", FieldType.NUMBER))
    assert {it.int for it in found(shard, FIVE)} == {1, 2, 3, 4, 5}
