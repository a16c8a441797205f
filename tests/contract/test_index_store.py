"""What every IndexStore promises, and the states of a data folder that a crash can leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
from blockbuster import BlockBuster

from clipsearch_server.errors import (
    CollectionExists,
    CollectionInUse,
    CollectionNotFound,
    IndexUnavailable,
)
from clipsearch_server.indexes.qdrant.store import QdrantStore
from clipsearch_server.ports import FieldType, FoundCollection, IndexedField, IndexStore
from edge_indexes import an_edge_store
from fakes import FakeStore
from in_memory_qdrant import InMemoryQdrant
from stored_images import a_qdrant_store, a_spec, an_image, embeddings

SPEC = a_spec()
FIELDS = (IndexedField("metadata.colour", FieldType.KEYWORD),)
OTHER = a_spec(fingerprint="1" * 64, dim=8)

pytestmark = [
    # One store for all tests, emptied before each: to start Edge takes longer than to use it.
    pytest.mark.asyncio(loop_scope="module"),
    # qdrant_client's local mode needs no index on a payload, and warns of one.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["edge", "fake", "qdrant"])
async def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[IndexStore]:
    if request.param == "fake":
        yield FakeStore("images", SPEC)
    elif request.param == "qdrant":
        async with a_qdrant_store(InMemoryQdrant(url="http://in-memory"), "images", SPEC) as qdrant:
            yield qdrant
    else:
        async with an_edge_store(tmp_path_factory.mktemp("data"), SPEC) as edge:
            yield edge


@pytest_asyncio.fixture(loop_scope="module")
async def store(opened: IndexStore, blockbuster: BlockBuster) -> IndexStore:
    """As it is at first: the collection images-1, for which images stands."""
    if isinstance(opened, QdrantStore):
        blockbuster.deactivate()  # the imitation of Qdrant reads files where the real one is asked
    if "images-1" not in await opened.collections():
        await opened.create("images-1", SPEC)
    await opened.set_alias("images", "images-1")
    for alias in await opened.aliases():
        if alias != "images":
            await opened.delete_alias(alias)
    for name in await opened.collections():
        if name != "images-1":
            await opened.delete(name)
    return opened


async def test_a_collection_is_made_found_changed_and_deleted(store: IndexStore) -> None:
    assert await store.find("images") == FoundCollection("images-1", SPEC)
    spec = replace(OTHER, prompt_templates=("a photo of a {}",))
    await store.create("photos.v2", spec)
    assert await store.collections() == {"images-1": SPEC, "photos.v2": spec}
    index = await store.open("photos.v2")
    await index.upsert([an_image(1)], embeddings(1)[:, :8])
    assert await (await store.open("images-1")).count() == 0
    changed = replace(spec, prompt_templates=("{}!", "{}?"), indexed_fields=FIELDS)
    await store.update("photos.v2", changed)
    assert await store.find("photos.v2") == FoundCollection("photos.v2", changed)
    assert await store.open("photos.v2") is index
    await store.delete("photos.v2")
    assert await store.collections() == {"images-1": SPEC}
    for gone in (store.find, store.open, store.delete):
        with pytest.raises(CollectionNotFound):
            await gone("photos.v2")
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count()
    await store.create("photos.v2", SPEC)  # has nothing of the one that had its name
    assert await (await store.open("photos.v2")).count() == 0


async def test_a_name_is_a_collections_or_an_aliass(store: IndexStore) -> None:
    await store.create("photos", SPEC)
    for name in ("photos", "images", "images-1"):
        with pytest.raises(CollectionExists):
            await store.create(name, SPEC)
    with pytest.raises(CollectionExists):
        await store.set_alias("photos", "images-1")
    for missing in ("nothing", "images"):  # nor does an alias stand for an alias
        with pytest.raises(CollectionNotFound):
            await store.set_alias("album", missing)
    for alias in ("nothing", "photos"):
        with pytest.raises(CollectionNotFound, match=f"no alias named '{alias}'"):
            await store.delete_alias(alias)
    assert await store.aliases() == {"images": "images-1"}


async def test_an_alias_is_switched_and_its_collection_kept(store: IndexStore) -> None:
    await store.create("photos", OTHER)
    await store.set_alias("album", "photos")
    with pytest.raises(CollectionInUse):
        await store.delete("photos")
    await store.set_alias("images", "photos")
    assert await store.find("images") == FoundCollection("photos", OTHER)
    assert await store.aliases() == {"album": "photos", "images": "photos"}
    await store.delete("images-1")
    await store.delete_alias("album")
    with pytest.raises(CollectionNotFound):
        await store.find("album")


async def test_whoever_opens_at_the_same_time_gets_the_same(store: IndexStore) -> None:
    await store.create("photos", SPEC)
    indexes = await asyncio.gather(*(store.open("photos") for _ in range(5)))
    assert all(index is indexes[0] for index in indexes)


async def test_whatever_switches_meanwhile_a_name_is_one_or_the_other(store: IndexStore) -> None:
    await store.create("photos", OTHER)
    done = asyncio.Event()

    async def switch() -> None:
        for _ in range(5):
            await store.set_alias("images", "photos")
            await store.set_alias("images", "images-1")
        done.set()

    async def look() -> set[FoundCollection]:
        seen = set()
        while not done.is_set():
            seen.add(await store.find("images"))
            await asyncio.sleep(0)
        return seen

    _, _, *seen = await asyncio.gather(switch(), switch(), look(), look())
    either = {FoundCollection("images-1", SPEC), FoundCollection("photos", OTHER)}
    assert set().union(*seen) <= either
    assert (await store.find("images")).name == "images-1"


# Edge: what is on disk ----------------------------------------------------------------------------


async def test_edge_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    collections = tmp_path / "collections"
    spec = replace(OTHER, prompt_templates=("a {}",), indexed_fields=FIELDS)
    async with an_edge_store(tmp_path, SPEC) as store:
        await (await store.open("images-1")).upsert([an_image(1)], embeddings(1))
        await store.create("photos", spec)
        await store.set_alias("album", "photos")
        creating = asyncio.create_task(store.create("late", SPEC))
        await asyncio.sleep(0)
        creating.cancel()  # what was begun is brought to its end
        await asyncio.wait({creating})
    async with an_edge_store(tmp_path, OTHER) as store:
        assert await store.collections() == {"images-1": SPEC, "photos": spec, "late": SPEC}
        assert await store.aliases() == {"album": "photos", "images": "images-1"}
        assert await (await store.open("images-1")).get([UUID(int=1)]) == [an_image(1)]
    (tmp_path / "aliases.json").unlink()
    (collections / "images-1").rename(collections / "images")  # as it was before aliases
    (collections / "late" / "collection.json").write_text("{}")
    (collections / "photos" / "CURRENT").write_text("nothing")
    async with an_edge_store(tmp_path, OTHER) as store:
        assert await store.aliases() == {"images": "images-1"}
        assert await (await store.open("images-1")).get([UUID(int=1)]) == [an_image(1)]
        # What is damaged is refused, and can go.
        for name, file in (("late", "collection.json"), ("photos", "CURRENT")):
            with pytest.raises(IndexUnavailable, match=file):
                await store.open(name)
            with pytest.raises(CollectionExists):
                await store.create(name, SPEC)
            await store.delete(name)
    assert [path.name for path in collections.iterdir()] == ["images-1"]
