"""Which collection the Qdrant adapter makes and takes, and a Qdrant that goes and comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from qdrant_client import grpc as q

from clipsearch_server import errors
from clipsearch_server.indexes.qdrant.collection import CollectionLayout
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.indexes.qdrant.store import QdrantStore
from clipsearch_server.rpc.health import HealthReporter
from fake_qdrant import FakeQdrant, Hang
from qdrant_calls import ALL, DIM, NEAREST, WAIT_S, a_spec, a_store, an_index


@pytest_asyncio.fixture
async def index(qdrant: FakeQdrant) -> AsyncIterator[QdrantIndex]:
    async with an_index(qdrant) as index:
        yield index


@pytest_asyncio.fixture
async def store(qdrant: FakeQdrant) -> AsyncIterator[QdrantStore]:
    async with a_store(qdrant) as store:
        yield store


async def default_index(store: QdrantStore) -> QdrantIndex:
    """As each request gets it."""
    return await store.open((await store.find("images")).name)


async def count(store: QdrantStore) -> int:
    return await (await default_index(store)).count()


@asynccontextmanager
async def watching(store: QdrantStore) -> AsyncIterator[AsyncIterator[int]]:
    """The changes of the default index's health, as a client of ours that watches is told them."""

    async def health() -> None:
        await (await default_index(store)).health()

    reporter = HealthReporter({"index": health})
    task = asyncio.create_task(reporter.report())
    watch = reporter.Watch(HealthCheckRequest(service="index"), None)  # type: ignore[arg-type]

    async def changes() -> AsyncIterator[int]:
        async for answer in watch:
            yield answer.status

    try:
        yield changes()
    finally:
        task.cancel()


async def until(changes: AsyncIterator[int], status: int) -> None:
    async with asyncio.timeout(WAIT_S):
        async for told in changes:
            if told == status:
                return


async def test_a_new_collection_is_made_as_the_settings_say(qdrant: FakeQdrant) -> None:
    layout = CollectionLayout(
        shards=6,
        replication_factor=3,
        write_consistency_factor=2,
        quantization="turbo4",
        on_disk=True,
        hnsw_m=32,
        hnsw_ef_construct=200,
    )
    async with an_index(qdrant, layout=layout) as index:
        (made,) = qdrant.requests["Collections/Create"]
        assert made.collection_name == "images-1"
        assert (made.vectors_config.params.size, made.vectors_config.params.distance) == (
            DIM,
            q.Distance.Cosine,
        )
        assert made.vectors_config.params.on_disk
        assert (made.hnsw_config.m, made.hnsw_config.ef_construct) == (32, 200)
        assert made.hnsw_config.on_disk
        assert made.on_disk_payload
        assert made.quantization_config.turboquant.bits == q.TurboQuantBitSize.Bits4
        assert made.quantization_config.turboquant.always_ram
        assert (made.shard_number, made.replication_factor) == (6, 3)
        assert made.write_consistency_factor == 2
        card = made.metadata["clipsearch"].struct_value.fields
        assert card["fingerprint"].string_value == "f" * 64
        assert card["model_id"].string_value == "model"
        assert card["embedding_dim"].integer_value == DIM
        assert card["format_version"].integer_value == 1
        assert card["created_by"].string_value.startswith("clipsearch-server ")
        fields = {it.field_name: it for it in qdrant.requests["Points/CreateFieldIndex"]}
        assert fields["sha256"].wait
        assert fields["sha256"].field_type == q.FieldType.FieldTypeKeyword
        assert fields["uri"].field_index_params.keyword_index_params.prefix
        assert fields["width_px"].field_type == q.FieldType.FieldTypeFloat
        assert fields["create_time"].field_type == q.FieldType.FieldTypeDatetime
        await index.search([NEAREST])
        quantization = qdrant.requests["Points/QueryBatch"][0].query_points[0].params.quantization
        assert (quantization.rescore, quantization.oversampling) == (True, 2.0)
        assert index.description == f"qdrant 1.20.1 at 127.0.0.1:{qdrant.port}"


async def test_the_default_keeps_full_vectors_only(index: QdrantIndex, qdrant: FakeQdrant) -> None:
    (made,) = qdrant.requests["Collections/Create"]
    assert not made.HasField("quantization_config")
    await index.search([NEAREST])
    params = qdrant.requests["Points/QueryBatch"][0].query_points[0].params
    assert not params.HasField("quantization")


async def test_eight_bits_are_scalar(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant, layout=CollectionLayout(quantization="int8")):
        (made,) = qdrant.requests["Collections/Create"]
        assert made.quantization_config.scalar.type == q.QuantizationType.Int8


async def test_a_collection_is_opened_again_as_it_is(qdrant: FakeQdrant) -> None:
    for shards in (1, 2):
        async with an_index(qdrant, layout=CollectionLayout(shards=shards)) as index:
            await index.health()
    assert len(qdrant.requests["Collections/Create"]) == 1
    fields = [it.field_name for it in qdrant.requests["Points/CreateFieldIndex"]]
    assert len(fields) == len(set(fields))


async def test_what_a_crash_left_undone_is_done(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant):
        pass
    qdrant.collections["images-1"].payload_schema.clear()
    qdrant.aliases.clear()
    async with an_index(qdrant):
        assert {"sha256", "uri"} <= qdrant.collections["images-1"].payload_schema.keys()
        assert qdrant.aliases == {"images": "images-1"}


async def test_of_two_servers_that_create_both_go_on(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant):
        qdrant.answer("Collections/List", q.ListCollectionsResponse())
        qdrant.answer("Collections/Create", (grpc.StatusCode.ALREADY_EXISTS, "already exists!"))
        async with an_index(qdrant) as loser:
            assert await loser.count() == 0


def with_other_dimensions(info: q.CollectionInfo) -> None:
    info.config.params.vectors_config.params.size = DIM + 1


def with_other_distance(info: q.CollectionInfo) -> None:
    info.config.params.vectors_config.params.distance = q.Distance.Euclid


def without_metadata(info: q.CollectionInfo) -> None:
    info.config.metadata.clear()


def with_foreign_metadata(info: q.CollectionInfo) -> None:
    info.config.metadata["clipsearch"].string_value = "ours"


def with_a_later_format(info: q.CollectionInfo) -> None:
    card = info.config.metadata["clipsearch"].struct_value
    card.fields["format_version"].integer_value = 3


def with_odd_metadata(info: q.CollectionInfo) -> None:
    info.config.metadata["clipsearch"].struct_value.fields["odd"].bool_value = True


def with_named_vectors(info: q.CollectionInfo) -> None:
    params = info.config.params.vectors_config.params
    info.config.params.vectors_config.params_map.map["image"].CopyFrom(params)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (with_other_dimensions, "does not hold single vectors of 4 dimensions"),
        (with_other_distance, "by cosine"),
        (with_named_vectors, "single vectors"),
        (without_metadata, "does not say which model filled it"),
        (with_foreign_metadata, "does not say which model filled it"),
        (with_a_later_format, "has format 3, and this server reads 1 and 2"),
        (with_odd_metadata, "cannot be understood"),
    ],
)
async def test_a_collection_of_something_else_is_refused(
    qdrant: FakeQdrant, spoil: Callable[[q.CollectionInfo], None], said: str
) -> None:
    async with an_index(qdrant):
        pass
    spoil(qdrant.collections["images-1"])
    with pytest.raises(errors.ModelMismatch, match=said):
        async with an_index(qdrant):
            pass


async def test_a_collection_from_before_there_were_aliases_is_served_under_its_name(
    qdrant: FakeQdrant,
) -> None:
    async with a_store(qdrant):
        pass
    qdrant.collections["images"] = qdrant.drop("images-1")
    async with a_store(qdrant) as store:
        assert (await store.find("images")).name == "images"
        assert await count(store) == 0
        assert not qdrant.aliases
        await store.create("images-2", a_spec())
        with pytest.raises(errors.CollectionExists):
            await store.set_alias("images", "images-2")


@pytest.mark.parametrize(
    ("version", "quantization", "said"),
    [("1.15.4", "none", "keeps no metadata"), ("1.17.0", "turbo4", "has no TurboQuant")],
)
async def test_a_qdrant_that_is_too_old_is_named(
    qdrant: FakeQdrant, version: str, quantization: Any, said: str
) -> None:
    qdrant.version = version
    async with a_store(qdrant, layout=CollectionLayout(quantization=quantization)) as store:
        with pytest.raises(errors.IndexUnavailable, match=f"version {version} {said}"):
            await store.find("images")
        assert not qdrant.requests["Collections/Create"]


# Qdrant goes and comes. ---------------------------------------------------------------------------


async def test_a_qdrant_that_is_away_at_the_start_is_waited_for(
    qdrant: FakeQdrant, caplog: pytest.LogCaptureFixture
) -> None:
    await qdrant.stop()
    async with a_store(qdrant) as store, watching(store) as changes:
        assert "the index is not open yet" in caplog.text
        assert await anext(changes) == HealthCheckResponse.NOT_SERVING
        for call in (store.find, store.open, store.delete):
            with pytest.raises(errors.IndexUnavailable, match="cannot be reached"):
                await call("images")
        assert store.description == f"qdrant at 127.0.0.1:{qdrant.port}"
        await qdrant.start()
        await until(changes, HealthCheckResponse.SERVING)
        assert await count(store) == 0
        assert store.description == f"qdrant 1.20.1 at 127.0.0.1:{qdrant.port}"
        assert "images-1" in qdrant.collections


async def test_the_start_does_not_wait_for_a_qdrant_that_hangs(qdrant: FakeQdrant) -> None:
    hang = Hang()
    qdrant.answer("Qdrant/HealthCheck", hang)
    async with a_store(qdrant, timeout_s=1) as store:
        assert hang.entered.is_set()
        with pytest.raises(errors.IndexUnavailable, match="did not answer in time"):
            await store.find("images")


async def test_a_wrong_collection_found_late_is_told_until_it_is_gone(
    qdrant: FakeQdrant, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_store(qdrant):
        pass
    without_metadata(qdrant.collections["images-1"])
    await qdrant.stop()
    async with a_store(qdrant) as store:
        await qdrant.start()
        error: Exception | None = None
        async with asyncio.timeout(WAIT_S):
            while not isinstance(error, errors.ModelMismatch):
                await asyncio.sleep(0.01)  # nothing tells when the store has looked again
                with pytest.raises(errors.ClipsearchError) as caught:
                    await store.find("images")
                error = caught.value
        async with watching(store) as changes:
            assert await anext(changes) == HealthCheckResponse.NOT_SERVING
            assert caplog.text.count("tried again: collection images-1") == 1
            qdrant.drop("images-1")
            await until(changes, HealthCheckResponse.SERVING)


async def test_row_39_a_qdrant_that_is_killed_is_found_again(
    store: QdrantStore, qdrant: FakeQdrant
) -> None:
    async with watching(store) as changes:
        await until(changes, HealthCheckResponse.SERVING)
        await qdrant.stop()
        await until(changes, HealthCheckResponse.NOT_SERVING)
        with pytest.raises(errors.IndexUnavailable, match="cannot be reached"):
            await store.find("images", anew=True)  # else it may be what was so a second ago
        await qdrant.start()
        await until(changes, HealthCheckResponse.SERVING)
        assert await count(store) == 0


async def test_a_collection_that_is_deleted_is_missed_and_not_made_anew(
    store: QdrantStore, qdrant: FakeQdrant
) -> None:
    async with watching(store) as changes:
        await until(changes, HealthCheckResponse.SERVING)
        lost = qdrant.drop("images-1")
        await until(changes, HealthCheckResponse.NOT_SERVING)
        with pytest.raises(errors.IndexUnavailable, match="has lost the collection"):
            await store.find("images", anew=True)
        assert not qdrant.collections
        qdrant.collections["images-1"] = lost
        await until(changes, HealthCheckResponse.SERVING)
    assert qdrant.aliases == {"images": "images-1"}


async def test_row_38_a_collection_that_is_swapped_is_refused_until_it_is_back(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    ours = q.CollectionInfo()
    ours.CopyFrom(qdrant.collections["images-1"])
    without_metadata(qdrant.collections["images-1"])
    with pytest.raises(errors.ModelMismatch):
        await index.health()
    for call, _ in ALL:
        with pytest.raises(errors.ModelMismatch):
            await call(index)
    qdrant.collections["images-1"] = ours
    await index.health()
    assert await index.count() == 0


# Other servers ------------------------------------------------------------------------------------


async def test_what_another_server_switches_is_seen_within_a_second(
    store: QdrantStore, qdrant: FakeQdrant
) -> None:
    async with a_store(qdrant) as other:
        await other.create("images-2", a_spec("e" * 64))
        assert (await store.find("images")).name == "images-1"
        await other.set_alias("images", "images-2")
        assert (await other.find("images")).name == "images-2"
        async with asyncio.timeout(WAIT_S):
            while (await store.find("images")).name == "images-1":  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nothing tells
        switch = qdrant.requests["Collections/UpdateAliases"][-1]
        assert len(switch.actions) == 2  # the old one removed and the new one set, in one call
        assert (await store.find("images")).spec.fingerprint == "e" * 64


async def test_aliases_and_collections_of_other_programs_are_left_alone(
    store: QdrantStore, qdrant: FakeQdrant
) -> None:
    theirs = q.CollectionInfo()
    theirs.CopyFrom(qdrant.collections["images-1"])
    without_metadata(theirs)
    qdrant.collections["theirs"] = theirs
    qdrant.aliases["their-alias"] = "theirs"
    assert await store.collections() == {"images-1": a_spec()}
    assert await store.aliases() == {"images": "images-1"}
    for name in ("theirs", "their-alias"):
        for refused in (store.find(name), store.delete(name), store.delete_alias(name)):
            with pytest.raises(errors.CollectionNotFound):
                await refused
        with pytest.raises(errors.CollectionExists):
            await store.create(name, a_spec())
        with pytest.raises(errors.CollectionExists):
            await store.set_alias(name, "images-1")
    with pytest.raises(errors.CollectionNotFound):
        await store.set_alias("mine", "theirs")


async def test_a_collection_made_anew_for_another_model_is_opened_anew(
    store: QdrantStore, qdrant: FakeQdrant
) -> None:
    await store.create("photos", a_spec())
    before = await store.open("photos")
    async with a_store(qdrant) as other:
        await other.delete("photos")
        await other.create("photos", a_spec("e" * 64))
    async with asyncio.timeout(WAIT_S):
        while (await store.open("photos")) is before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await (await store.open("photos")).count() == 0
    with pytest.raises(errors.IndexUnavailable, match="closed"):
        await before.count()
