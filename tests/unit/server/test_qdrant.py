"""The Qdrant adapter against a Qdrant that fails in every way: what is told, kept and repeated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from qdrant_client import grpc as q
from qdrant_client.conversions.conversion import RestToGrpc

from clipsearch_server import errors
from clipsearch_server.indexes.points import to_payload
from clipsearch_server.indexes.qdrant.collection import CollectionLayout
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.ports import StoredImage
from clipsearch_server.rpc.health import HealthReporter
from fake_qdrant import FakeQdrant, Hang

DIM = 4
BORN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
VECTOR = np.array([1, 0, 0, 0], np.float32)
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "connection reset")
WAIT_S = 10.0  # for what takes milliseconds; CI's cores are shared

Call = Callable[[QdrantIndex], Awaitable[Any]]
READS: list[Call] = [
    lambda index: index.count(),
    lambda index: index.search(VECTOR, limit=1),
    lambda index: index.get([UUID(int=1)]),
    lambda index: index.find_content("a" * 64),
    lambda index: index.list(limit=1),
    lambda index: index.list_embedded(limit=1),
]
READ_METHODS = ["Count", "Query", "Get", "Scroll", "Scroll", "Scroll"]
WRITES: list[Call] = [
    lambda index: index.upsert([an_image(1)], VECTOR[None]),
    lambda index: index.delete([UUID(int=1)]),
]
WRITE_METHODS = ["Upsert", "Delete"]
ALL = [*zip(READS, READ_METHODS, strict=True), *zip(WRITES, WRITE_METHODS, strict=True)]

reading = pytest.mark.parametrize(
    ("call", "method"), ALL[:6], ids=["count", "search", "get", "find", "list", "embedded"]
)
writing = pytest.mark.parametrize(("call", "method"), ALL[6:], ids=["upsert", "delete"])


@pytest_asyncio.fixture
async def qdrant() -> AsyncIterator[FakeQdrant]:
    fake = FakeQdrant()
    await fake.start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def index(qdrant: FakeQdrant) -> AsyncIterator[QdrantIndex]:
    async with an_index(qdrant) as index:
        yield index


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


@asynccontextmanager
async def watching(index: QdrantIndex) -> AsyncIterator[AsyncIterator[int]]:
    """The changes of the index's health, as a client of ours that watches is told them."""
    reporter = HealthReporter({"index": index.health})
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


# What is made, and what is accepted. --------------------------------------------------------------


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
        assert made.collection_name == "images"
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
        (field,) = qdrant.requests["Points/CreateFieldIndex"]
        assert (field.field_name, field.wait) == ("sha256", True)
        assert field.field_type == q.FieldType.FieldTypeKeyword
        await index.search(VECTOR, limit=1)
        quantization = qdrant.requests["Points/Query"][0].params.quantization
        assert (quantization.rescore, quantization.oversampling) == (True, 2.0)
        assert index.description == f"qdrant 1.20.1 at 127.0.0.1:{qdrant.port}"


async def test_the_default_keeps_full_vectors_only(index: QdrantIndex, qdrant: FakeQdrant) -> None:
    (made,) = qdrant.requests["Collections/Create"]
    assert not made.HasField("quantization_config")
    await index.search(VECTOR, limit=1)
    assert not qdrant.requests["Points/Query"][0].HasField("params")


async def test_eight_bits_are_scalar(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant, layout=CollectionLayout(quantization="int8")):
        (made,) = qdrant.requests["Collections/Create"]
        assert made.quantization_config.scalar.type == q.QuantizationType.Int8


async def test_a_collection_is_opened_again_as_it_is(qdrant: FakeQdrant) -> None:
    for shards in (1, 2):
        async with an_index(qdrant, layout=CollectionLayout(shards=shards)) as index:
            await index.health()
    assert len(qdrant.requests["Collections/Create"]) == 1
    assert len(qdrant.requests["Points/CreateFieldIndex"]) == 1


async def test_what_a_crash_left_undone_is_done(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant):
        pass
    qdrant.collections["images"].payload_schema.clear()
    async with an_index(qdrant):
        assert "sha256" in qdrant.collections["images"].payload_schema


async def test_of_two_servers_that_create_both_go_on(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant):
        absent = q.CollectionExistsResponse(result=q.CollectionExists(exists=False))
        qdrant.answer("Collections/CollectionExists", absent)
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
    card.fields["format_version"].integer_value = 2


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
        (with_a_later_format, "has format 2, and this server reads 1"),
        (with_odd_metadata, "cannot be understood"),
    ],
)
async def test_a_collection_of_something_else_is_refused(
    qdrant: FakeQdrant, spoil: Callable[[q.CollectionInfo], None], said: str
) -> None:
    async with an_index(qdrant):
        pass
    spoil(qdrant.collections["images"])
    with pytest.raises(errors.ModelMismatch, match=said):
        async with an_index(qdrant):
            pass


async def test_both_fingerprints_are_named(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant):
        pass
    with pytest.raises(errors.ModelMismatch) as caught:
        async with an_index(qdrant, fingerprint="e" * 64):
            pass
    assert "f" * 64 in caught.value.message
    assert "e" * 64 in caught.value.message
    assert caught.value.metadata == {
        "collection_fingerprint": "f" * 64,
        "model_fingerprint": "e" * 64,
    }


@pytest.mark.parametrize(
    ("version", "quantization", "said"),
    [("1.15.4", "none", "keeps no metadata"), ("1.17.0", "turbo4", "has no TurboQuant")],
)
async def test_a_qdrant_that_is_too_old_is_named(
    qdrant: FakeQdrant, version: str, quantization: Any, said: str
) -> None:
    qdrant.version = version
    async with an_index(qdrant, layout=CollectionLayout(quantization=quantization)) as index:
        with pytest.raises(errors.IndexUnavailable, match=f"version {version} {said}"):
            await index.health()
        assert not qdrant.requests["Collections/Create"]


# Qdrant goes and comes. ---------------------------------------------------------------------------


async def test_a_qdrant_that_is_away_at_the_start_is_waited_for(
    qdrant: FakeQdrant, caplog: pytest.LogCaptureFixture
) -> None:
    await qdrant.stop()
    async with an_index(qdrant) as index, watching(index) as changes:
        assert "the index is not open yet" in caplog.text
        assert await anext(changes) == HealthCheckResponse.NOT_SERVING
        for call, _ in ALL:
            with pytest.raises(errors.IndexUnavailable, match="cannot be reached"):
                await call(index)
        assert index.description == f"qdrant at 127.0.0.1:{qdrant.port}"
        await qdrant.start()
        await until(changes, HealthCheckResponse.SERVING)
        assert await index.count() == 0
        assert "images" in qdrant.collections


async def test_the_start_does_not_wait_for_a_qdrant_that_hangs(qdrant: FakeQdrant) -> None:
    hang = Hang()
    qdrant.answer("Qdrant/HealthCheck", hang)
    async with an_index(qdrant, timeout_s=0.1) as index:
        assert hang.entered.is_set()
        with pytest.raises(errors.IndexUnavailable, match="did not answer in time"):
            await index.health()


async def test_a_wrong_collection_found_late_is_told_until_it_is_gone(
    qdrant: FakeQdrant, caplog: pytest.LogCaptureFixture
) -> None:
    async with an_index(qdrant, fingerprint="e" * 64):
        pass
    await qdrant.stop()
    async with an_index(qdrant) as index:
        await qdrant.start()
        error: Exception | None = None
        async with asyncio.timeout(WAIT_S):
            while not isinstance(error, errors.ModelMismatch):
                await asyncio.sleep(0.01)  # nothing tells when the index has looked again
                with pytest.raises(errors.ClipsearchError) as caught:
                    await index.count()
                error = caught.value
        async with watching(index) as changes:
            assert await anext(changes) == HealthCheckResponse.NOT_SERVING
            assert caplog.text.count("was filled by the model") == 1
            del qdrant.collections["images"]
            await until(changes, HealthCheckResponse.SERVING)


async def test_a_qdrant_that_is_killed_is_found_again(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    async with watching(index) as changes:
        await until(changes, HealthCheckResponse.SERVING)
        await qdrant.stop()
        await until(changes, HealthCheckResponse.NOT_SERVING)
        with pytest.raises(errors.IndexUnavailable, match="cannot be reached"):
            await index.count()
        await qdrant.start()
        await until(changes, HealthCheckResponse.SERVING)
        assert await index.count() == 0


async def test_a_collection_that_is_deleted_is_missed_and_not_made_anew(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    lost = qdrant.collections.pop("images")
    with pytest.raises(errors.IndexUnavailable, match="has lost the collection"):
        await index.health()
    assert "images" not in qdrant.collections
    qdrant.collections["images"] = lost
    await index.health()


async def test_a_collection_that_is_swapped_is_refused_until_it_is_back(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    ours = q.CollectionInfo()
    ours.CopyFrom(qdrant.collections["images"])
    without_metadata(qdrant.collections["images"])
    with pytest.raises(errors.ModelMismatch):
        await index.health()
    for call, _ in ALL:
        with pytest.raises(errors.ModelMismatch):
            await call(index)
    qdrant.collections["images"] = ours
    await index.health()
    assert await index.count() == 0


# What a call is told. -----------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "method"), ALL)
async def test_a_call_that_found_no_connection_is_repeated(
    index: QdrantIndex, qdrant: FakeQdrant, call: Call, method: str
) -> None:
    qdrant.answer(f"Points/{method}", UNAVAILABLE, UNAVAILABLE, None)
    await call(index)
    assert len(qdrant.requests[f"Points/{method}"]) == 3


@pytest.mark.parametrize(("call", "method"), ALL)
async def test_it_is_repeated_a_few_times_only(
    index: QdrantIndex, qdrant: FakeQdrant, call: Call, method: str
) -> None:
    qdrant.answer(f"Points/{method}", *[UNAVAILABLE] * 10)
    with pytest.raises(errors.IndexUnavailable, match="cannot be reached: connection reset"):
        await call(index)
    assert len(qdrant.requests[f"Points/{method}"]) == 3


async def test_a_full_batch_is_repeated_too(index: QdrantIndex, qdrant: FakeQdrant) -> None:
    qdrant.answer("Points/Upsert", UNAVAILABLE, None)
    images = [an_image(n, metadata={"text": "x" * 16_000}) for n in range(150)]
    await index.upsert(images, np.repeat(VECTOR[None], 150, axis=0))
    requests = qdrant.requests["Points/Upsert"]
    assert [len(request.points) for request in requests] == [64, 64, 64, 22]
    assert all(request.ByteSize() < 4 * 2**20 for request in requests)
    assert all(request.wait for request in requests)


@reading
async def test_a_read_that_hangs_is_too_late(
    index: QdrantIndex, qdrant: FakeQdrant, call: Call, method: str
) -> None:
    async with an_index(qdrant, timeout_s=0.1) as impatient:
        qdrant.answer(f"Points/{method}", Hang())
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await call(impatient)
        assert caught.value.reason == "DEADLINE_EXCEEDED"


@writing
async def test_of_a_write_that_hangs_the_outcome_is_unknown(
    qdrant: FakeQdrant, call: Call, method: str
) -> None:
    async with an_index(qdrant, timeout_s=0.1) as impatient:
        qdrant.answer(f"Points/{method}", Hang())
        with pytest.raises(errors.OutcomeUnknown, match="repeating it by the same id is safe"):
            await call(impatient)


@writing
@pytest.mark.parametrize("status", ["Acknowledged", "WaitTimeout", "ClockRejected"])
async def test_what_is_not_applied_is_not_stored(
    index: QdrantIndex, qdrant: FakeQdrant, call: Call, method: str, status: str
) -> None:
    result = q.UpdateResult(status=q.UpdateStatus.Value(status))
    qdrant.answer(f"Points/{method}", q.PointsOperationResponse(result=result))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await call(index)
    assert caught.value.reason == "OUTCOME_UNKNOWN"


CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("failure", "expected", "said"),
    [
        ((CODES.UNAUTHENTICATED, "Invalid API key"), errors.IndexUnavailable, "qdrant.api_key"),
        ((CODES.PERMISSION_DENIED, "Forbidden"), errors.IndexUnavailable, "qdrant.api_key"),
        ((CODES.RESOURCE_EXHAUSTED, "too many"), errors.Overloaded, "overloaded: too many"),
        (
            (CODES.INTERNAL, "Service internal error: No space left on device: WAL buffer size"),
            errors.StorageFull,
            "disk",
        ),
        ((CODES.RESOURCE_EXHAUSTED, "Out of disk"), errors.StorageFull, "disk"),
        ((CODES.NOT_FOUND, "Collection `images`"), errors.IndexUnavailable, "has lost"),
        ((CODES.DEADLINE_EXCEEDED, "late"), errors.DeadlineExceeded, "in time"),
        ((CODES.CANCELLED, "Timeout expired"), errors.DeadlineExceeded, "in time"),
        ((CODES.INTERNAL, "panic\nat line 3"), errors.IndexUnavailable, "INTERNAL: panic$"),
        ((CODES.UNKNOWN, ""), errors.IndexUnavailable, "UNKNOWN"),
        ((CODES.INVALID_ARGUMENT, "x" * 5000), errors.IndexUnavailable, "x{200}$"),
    ],
)
async def test_an_error_of_qdrants_is_told_as_ours(
    index: QdrantIndex,
    qdrant: FakeQdrant,
    failure: tuple[grpc.StatusCode, str],
    expected: type[errors.ClipsearchError],
    said: str,
) -> None:
    for call, method in ALL:
        qdrant.answer(f"Points/{method}", failure)
        with pytest.raises(expected, match=said) as caught:
            await call(index)
        late = isinstance(caught.value, errors.DeadlineExceeded)
        assert isinstance(caught.value, errors.OutcomeUnknown) == (late and call in WRITES)


@pytest.mark.parametrize("code", [CODES.UNAUTHENTICATED, CODES.RESOURCE_EXHAUSTED, CODES.CANCELLED])
async def test_health_says_unavailable_whatever_it_is(
    index: QdrantIndex, qdrant: FakeQdrant, code: grpc.StatusCode
) -> None:
    qdrant.answer("Collections/Get", (code, "no"))
    with pytest.raises(errors.IndexUnavailable):
        await index.health()


async def test_a_description_that_cannot_be_read_is_told(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    qdrant.answer("Collections/Get", q.GetCollectionInfoResponse(time=1.0))
    with pytest.raises(errors.IndexUnavailable, match="cannot read"):
        await index.health()


async def test_an_overloaded_qdrant_says_when_to_come_back(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    retry_after = (("retry-after", "7"),)
    qdrant.answer("Points/Count", (CODES.RESOURCE_EXHAUSTED, "rate limited", retry_after))
    with pytest.raises(errors.Overloaded) as caught:
        await index.count()
    assert caught.value.retry_after_s == 7


async def test_the_key_is_sent_and_never_told(
    qdrant: FakeQdrant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with an_index(qdrant, api_key="hush-hush") as index:
        assert qdrant.headers["api-key"] == "hush-hush"
        qdrant.answer("Points/Count", (CODES.UNAUTHENTICATED, "Invalid API key"))
        with pytest.raises(errors.IndexUnavailable) as caught:
            await index.count()
    assert "hush" not in caplog.text + caught.value.message
    assert "unencrypted" in caplog.text
    assert "hush" not in repr(QdrantServer(url=qdrant.url, api_key="hush-hush"))


async def test_a_caller_that_goes_is_no_work_for_qdrant(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    hang = Hang()
    qdrant.answer("Points/Count", hang)
    call = asyncio.create_task(index.count())
    await hang.entered.wait()
    call.cancel()
    async with asyncio.timeout(WAIT_S):
        await hang.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_more_than_so_many_are_refused(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant, max_in_flight=1) as index:
        hang = Hang()
        qdrant.answer("Points/Count", hang)
        call = asyncio.create_task(index.count())
        await hang.entered.wait()
        with pytest.raises(errors.Overloaded):
            await index.count()
        await index.health()
        call.cancel()
        await asyncio.wait({call})
        assert await index.count() == 0


async def test_a_closed_index_refuses(qdrant: FakeQdrant) -> None:
    async with an_index(qdrant) as index:
        pass
    for call in (index.count, index.health):
        with pytest.raises(errors.IndexUnavailable, match="closed"):
            await call()


# What a call asks. --------------------------------------------------------------------------------


async def test_a_hit_that_is_deleted_meanwhile_is_left_out(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    kept, gone = an_image(1), an_image(2)
    hits = [
        q.ScoredPoint(id=q.PointId(uuid=str(image.id)), score=score)
        for image, score in ((gone, 0.5), (kept, 0.25))
    ]
    payload = RestToGrpc.convert_payload(to_payload(kept))
    qdrant.answer("Points/Query", q.QueryResponse(result=hits))
    qdrant.answer(
        "Points/Get",
        q.GetResponse(result=[q.RetrievedPoint(id=q.PointId(uuid=str(kept.id)), payload=payload)]),
    )
    assert [(hit.image, hit.score) for hit in await index.search(VECTOR, limit=2)] == [(kept, 0.25)]


async def test_pages_are_cut_from_one_window(index: QdrantIndex, qdrant: FakeQdrant) -> None:
    hits = [
        q.ScoredPoint(id=q.PointId(uuid=str(UUID(int=n))), score=0.5) for n in reversed(range(100))
    ]
    for offset in (0, 10):
        qdrant.answer("Points/Query", q.QueryResponse(result=hits))
        await index.search(VECTOR, limit=10, offset=offset)
    first, second = qdrant.requests["Points/Query"]
    assert first == second
    assert first.limit == 128
    assert not first.with_payload.enable
    asked = [UUID(point.uuid).int for get in qdrant.requests["Points/Get"] for point in get.ids]
    assert asked == list(range(20))


async def test_the_last_of_one_id_is_sent(index: QdrantIndex, qdrant: FakeQdrant) -> None:
    images = [an_image(1, uri="first"), an_image(2), an_image(1, uri="last")]
    await index.upsert(images, np.eye(3, DIM, dtype=np.float32))
    (request,) = qdrant.requests["Points/Upsert"]
    sent = {UUID(point.id.uuid).int: point for point in request.points}
    assert sent[1].payload["uri"].string_value == "last"
    assert len(request.points) == 2
    assert request.ordering.type == q.WriteOrderingType.Medium


async def test_embeddings_are_listed_as_they_are_stored(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    image = an_image(1)
    record = q.RetrievedPoint(
        id=q.PointId(uuid=str(image.id)),
        payload=RestToGrpc.convert_payload(to_payload(image)),
        vectors=q.VectorsOutput(vector=q.VectorOutput(dense=q.DenseVector(data=VECTOR))),
    )
    following = q.PointId(uuid=str(UUID(int=2)))
    qdrant.answer("Points/Scroll", q.ScrollResponse(result=[record], next_page_offset=following))
    page = await index.list_embedded(limit=1, start_id=image.id)
    assert list(page.images) == [image]
    assert page.embeddings.dtype == np.float32
    assert page.embeddings.tolist() == [VECTOR.tolist()]
    assert page.next_id == UUID(int=2)
    empty = await index.list_embedded(limit=1)
    assert (list(empty.images), empty.embeddings.shape, empty.next_id) == ([], (0, DIM), None)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://qdrant:1234", "qdrant:1234"),
        ("https://qdrant.example.org", "qdrant.example.org:6334"),
        ("http://[::1]:6334/", "[::1]:6334"),
    ],
)
def test_the_address_is_told_without_more(url: str, address: str) -> None:
    assert QdrantServer(url=url).address == address


async def test_a_file_without_certificates_is_named(tmp_path: Any) -> None:
    server = QdrantServer(url="https://qdrant", ca_file=tmp_path)
    with pytest.raises(errors.StartupError, match="root certificates"):
        await asyncio.to_thread(server.connect, 1)
