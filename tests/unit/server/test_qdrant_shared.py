"""Two servers, or two workers of one, on a Qdrant: each sees what the other changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio

from clipsearch_server.filters import Filter, NumberRange
from clipsearch_server.indexes.qdrant.store import QdrantStore
from clipsearch_server.ports import FieldType, IndexedField, NearestQuery
from fake_qdrant import FakeQdrant
from qdrant_calls import VECTOR, a_spec, a_store

TAKEN = IndexedField("metadata.taken", FieldType.TIME)
LATER = NearestQuery(
    embedding=VECTOR, limit=1, filter=Filter(must=(NumberRange(field=TAKEN.field, gt=5),))
)


@pytest_asyncio.fixture
async def here(qdrant: FakeQdrant) -> AsyncIterator[QdrantStore]:
    async with a_store(qdrant) as store:
        yield store


@pytest_asyncio.fixture
async def there(qdrant: FakeQdrant, here: QdrantStore) -> AsyncIterator[QdrantStore]:
    async with a_store(qdrant) as store:
        yield store


async def knows_times(store: QdrantStore, qdrant: FakeQdrant) -> bool:
    """Whether a search in the collection "cats" takes the field for one of times, which no number
    is."""
    await (await store.open("cats")).search([LATER])
    (query,) = qdrant.requests["Points/QueryBatch"][-1].query_points
    (condition,) = query.filter.must
    return bool(condition.HasField("has_id"))


async def test_a_collection_and_an_alias_are_found_at_once(
    here: QdrantStore, there: QdrantStore
) -> None:
    assert (await there.find("images")).name == "images-1"
    await here.create("cats", a_spec())
    await here.set_alias("pets", "cats")
    assert (await there.find("cats")).name == "cats"
    assert (await there.find("pets")).name == "cats"


async def test_what_is_asked_anew_is_what_the_other_wrote(
    here: QdrantStore, there: QdrantStore
) -> None:
    await here.create("cats", a_spec())
    assert (await there.find("cats")).spec.prompt_templates == ()
    await here.update("cats", replace(a_spec(), prompt_templates=("a photo of {}",)))
    found = await there.find("cats", anew=True)
    assert found.spec.prompt_templates == ("a photo of {}",)


async def test_fields_that_the_other_indexed_or_dropped_are_searched_as_they_are(
    here: QdrantStore, there: QdrantStore, qdrant: FakeQdrant
) -> None:
    await here.create("cats", a_spec())
    assert not await knows_times(there, qdrant)
    await here.update("cats", replace(a_spec(), indexed_fields=(TAKEN,)))
    await there.find("cats", anew=True)
    assert await knows_times(there, qdrant)
    await here.delete("cats")
    await here.create("cats", a_spec())
    await there.find("cats", anew=True)
    assert not await knows_times(there, qdrant)


async def test_several_may_open_at_once_what_the_other_made_anew(
    here: QdrantStore, there: QdrantStore
) -> None:
    await here.create("cats", replace(a_spec(), indexed_fields=(TAKEN,)))
    before = await there.open("cats")
    await here.delete("cats")
    await here.create("cats", a_spec())
    await there.find("cats", anew=True)
    first, *others = await asyncio.gather(*(there.open("cats") for _ in range(4)))
    assert first is not before
    assert all(it is first for it in others)


async def test_a_collection_that_the_other_deleted_is_missed(
    here: QdrantStore, there: QdrantStore
) -> None:
    await here.create("cats", a_spec())
    await there.open("cats")
    await here.delete("cats")
    assert "cats" not in await there.collections()
