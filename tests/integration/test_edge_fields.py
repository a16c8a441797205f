"""The indexes on fields of the embedded index, through all that becomes of a shard."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge

from clipsearch_server.filters import Exists, Filter, MatchAny
from clipsearch_server.indexes.edge import live
from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.indexes.fields import IMAGE_FIELDS
from clipsearch_server.ports import FieldType, IndexedField, NearestQuery
from stored_images import DIM, an_image, an_open_index, embeddings

A, B, C = (IndexedField(f"metadata.{name}", FieldType.KEYWORD) for name in "abc")
OWN = {"sha256", *(field.field for field in IMAGE_FIELDS)}


def load(data_dir: Path) -> edge.EdgeShard:
    """Opens the shard of an index that is closed."""
    folder = data_dir / "collections" / "images-1"
    return edge.EdgeShard.load(str(folder / (folder / "CURRENT").read_text().strip() / "edge"))


def indexed(data_dir: Path) -> set[str]:
    shard = load(data_dir)
    fields = {*shard.info().payload_schema}
    shard.close()
    return fields


async def store(index: EdgeIndex, count: int) -> None:
    images = [an_image(n, metadata={"a": f"{n}", "b": "x"}) for n in range(count)]
    await index.upsert(images, embeddings(count))


async def matching(index: EdgeIndex, value: str) -> list[int]:
    query = NearestQuery(
        embedding=embeddings(1)[0],
        limit=10,
        filter=Filter(must=(MatchAny("metadata.a", (value,)),)),
    )
    return [hit.id.int for hit in (await index.search([query]))[0]]


async def test_fields_keep_their_indexes_and_get_new_ones(tmp_path: Path) -> None:
    async with an_open_index("edge", tmp_path, [A]) as index:
        assert isinstance(index, EdgeIndex)
        await store(index, 40)
        await index.add_indexed_fields([B, A])
        await index.add_indexed_fields([B])
        await index.optimize()
        assert await matching(index, "7") == [7]
    assert indexed(tmp_path) == OWN | {A.field, B.field}


async def test_a_shard_of_an_earlier_version_gets_them_when_it_is_opened(tmp_path: Path) -> None:
    async with an_open_index("edge", tmp_path, [A]) as index:
        assert isinstance(index, EdgeIndex)
        await store(index, 40)
    shard = load(tmp_path)
    for field in (OWN | {A.field}) - {"sha256"}:
        shard.update(edge.UpdateOperation.delete_field_index(field))
    shard.flush()
    shard.close()
    assert indexed(tmp_path) == {"sha256"}
    async with an_open_index("edge", tmp_path, [A]):
        pass
    assert indexed(tmp_path) == OWN | {A.field}


async def test_a_large_shard_gets_them_aside_with_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_open_index("edge", tmp_path, [A]) as index:
        assert isinstance(index, EdgeIndex)
        await store(index, 40)
        monkeypatch.setattr(live, "_IN_PLACE_POINTS", 39)
        # The second finds the first under way, and is not content with what that builds.
        await asyncio.gather(index.add_indexed_fields([B]), index.add_indexed_fields([C]))
        assert await matching(index, "7") == [7]
    assert indexed(tmp_path) == OWN | {A.field, B.field, C.field}


async def test_a_filter_that_is_none_fails_no_other_search(tmp_path: Path) -> None:
    async with an_open_index("edge", tmp_path) as index:
        assert isinstance(index, EdgeIndex)
        await store(index, 40)
        embedding = np.eye(1, DIM, dtype=np.float32)[0]
        good = NearestQuery(embedding=embedding, limit=3, exclude=(UUID(int=1),))
        bad = NearestQuery(embedding=embedding, limit=3, filter=Filter(must=(Exists("a..b"),)))
        outcomes = await asyncio.gather(
            *(index.search([query]) for query in (good, bad, good)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [list, ValueError, list]
        # Neither does a caller with many queries keep others waiting for all of them.
        answers = await index.search([good] * 50)
        assert answers == [answers[0]] * 50
        assert len(answers[0]) == 3
