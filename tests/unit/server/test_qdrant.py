"""What the Qdrant adapter asks, and what it tells its callers when Qdrant fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import grpc
import numpy as np
import pytest
import pytest_asyncio
import trustme
from qdrant_client import grpc as q
from qdrant_client.conversions.conversion import RestToGrpc

from clipsearch_server import errors
from clipsearch_server.filters import Exists, Filter, MatchAny, Prefix
from clipsearch_server.indexes.points import to_payload
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.ports import FieldType, IndexedField, NearestQuery
from fake_qdrant import FakeQdrant, Hang
from qdrant_calls import (
    ALL,
    DIM,
    VECTOR,
    WAIT_S,
    WRITES,
    Call,
    an_image,
    an_impatient_index,
    an_index,
)

CODES = grpc.StatusCode
UNAVAILABLE = (CODES.UNAVAILABLE, "connection reset")

reading = pytest.mark.parametrize(
    ("call", "method"),
    ALL[:7],
    ids=["count", "search", "embeddings", "get", "find", "list", "embedded"],
)
writing = pytest.mark.parametrize(("call", "method"), ALL[7:], ids=["upsert", "delete"])


@pytest_asyncio.fixture
async def index(qdrant: FakeQdrant) -> AsyncIterator[QdrantIndex]:
    async with an_index(qdrant) as index:
        yield index


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
    async with an_impatient_index(qdrant) as impatient:
        qdrant.answer(f"Points/{method}", Hang())
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await call(impatient)
        assert caught.value.reason == "DEADLINE_EXCEEDED"


@writing
async def test_row_40_of_a_write_that_hangs_the_outcome_is_unknown(
    index: QdrantIndex, qdrant: FakeQdrant, call: Call, method: str
) -> None:
    async with an_impatient_index(qdrant) as impatient:
        qdrant.answer(f"Points/{method}", Hang())
        with pytest.raises(errors.OutcomeUnknown, match="repeating it by the same id is safe"):
            await call(impatient)


@writing
@pytest.mark.parametrize("status", ["Acknowledged", "WaitTimeout", "ClockRejected"])
async def test_row_40_what_is_not_applied_is_not_stored(
    index: QdrantIndex, qdrant: FakeQdrant, call: Call, method: str, status: str
) -> None:
    result = q.UpdateResult(status=q.UpdateStatus.Value(status))
    qdrant.answer(f"Points/{method}", q.PointsOperationResponse(result=result))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await call(index)
    assert caught.value.reason == "OUTCOME_UNKNOWN"


@pytest.mark.parametrize(
    ("failure", "expected", "said"),
    [
        ((CODES.UNAUTHENTICATED, "Invalid API key"), errors.IndexUnavailable, "qdrant.api_key"),
        ((CODES.PERMISSION_DENIED, "Forbidden"), errors.IndexUnavailable, "qdrant.api_key"),
        ((CODES.RESOURCE_EXHAUSTED, "too many"), errors.Overloaded, "overloaded"),
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


async def test_queries_cross_in_one_call_without_payloads(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    results = [
        q.BatchResult(
            result=[q.ScoredPoint(id=q.PointId(uuid=str(UUID(int=n))), score=0.5) for n in numbers]
        )
        for numbers in ((3, 1, 2), (), (9,))
    ]
    qdrant.answer("Points/QueryBatch", q.QueryBatchResponse(result=results))
    answers = await index.search(
        [NearestQuery(embedding=VECTOR, limit=limit) for limit in (3, 7, 1)]
    )
    assert [[hit.id.int for hit in hits] for hits in answers] == [[1, 2, 3], [], [9]]
    (batch,) = qdrant.requests["Points/QueryBatch"]
    assert [request.limit for request in batch.query_points] == [3, 7, 1]
    assert not any(request.with_payload.enable for request in batch.query_points)
    assert "Points/Get" not in qdrant.requests


async def test_a_filter_is_sent_with_what_is_excluded(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    red = MatchAny("metadata.colour", ("red",))
    start = Prefix("metadata.path", "a/")
    filters = [Filter(must=(red,), must_not=(start,)), None, None]
    await index.search(
        [
            NearestQuery(embedding=VECTOR, limit=1, filter=filter, exclude=exclude, exact=exact)
            for filter, exclude, exact in zip(
                filters, ((), (UUID(int=7),), ()), (False, False, True), strict=True
            )
        ]
    )
    (batch,) = qdrant.requests["Points/QueryBatch"]
    filtered, excluding, exact = batch.query_points
    assert filtered.filter.must[0].field.key == "metadata.colour"
    assert filtered.filter.must[0].field.match.keywords.strings == ["red"]
    assert filtered.filter.must_not[0].field.match.prefix == "a/"
    assert (filtered.params.hnsw_ef, filtered.params.exact) == (100, False)
    (condition,) = excluding.filter.must_not
    assert [it.uuid for it in condition.has_id.has_id] == [str(UUID(int=7))]
    assert not exact.HasField("filter")
    assert exact.params.exact
    assert not exact.params.HasField("hnsw_ef")
    assert exact.params.quantization.ignore


async def test_a_prefix_needs_a_qdrant_that_knows_it(qdrant: FakeQdrant) -> None:
    qdrant.version = "1.18.2"
    prefix = Filter(should=(Filter(must_not=(Prefix("uri", "a/"),)),))
    async with an_index(qdrant) as index:
        with pytest.raises(errors.FilterRefused, match=r"1\.18\.2.*1\.19 or later"):
            await index.search([NearestQuery(embedding=VECTOR, limit=1, filter=prefix)])
        exists = Filter(must=(Exists("uri"),))
        assert await index.search([NearestQuery(embedding=VECTOR, limit=1, filter=exists)]) == [[]]


async def test_an_index_on_a_field_is_made_once_and_waited_for(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    qdrant.requests.clear()
    tags = IndexedField("metadata.tags", FieldType.KEYWORD)
    for _ in range(2):
        await index.add_indexed_fields([tags, IndexedField("metadata.at", FieldType.TIME)])
    first, second = qdrant.requests["Points/CreateFieldIndex"]
    assert (first.field_name, second.field_name) == ("metadata.tags", "metadata.at")
    assert first.wait
    assert first.field_index_params.keyword_index_params.prefix
    assert second.wait
    assert second.field_type == q.FieldType.FieldTypeDatetime


async def test_an_index_that_is_not_complete_in_time_is_not_acknowledged(
    index: QdrantIndex, qdrant: FakeQdrant
) -> None:
    acknowledged = q.UpdateResult(status=q.UpdateStatus.Acknowledged)
    qdrant.answer("Points/CreateFieldIndex", q.PointsOperationResponse(result=acknowledged))
    with pytest.raises(errors.OutcomeUnknown):
        await index.add_indexed_fields([IndexedField("metadata.tags", FieldType.KEYWORD)])


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


async def test_tls_trusts_the_file_that_is_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    fake = FakeQdrant()
    await fake.start(grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)]))
    server = QdrantServer(url=f"https://127.0.0.1:{fake.port}", ca_file=tmp_path / "ca.pem")
    trusting = await asyncio.to_thread(server.connect, WAIT_S)
    wary = await asyncio.to_thread(QdrantServer(url=server.url).connect, WAIT_S)
    try:
        assert (await trusting.info()).version == fake.version
        with pytest.raises(grpc.aio.AioRpcError):
            await wary.info()
    finally:
        await trusting.close()
        await wary.close()
        await fake.stop()


async def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    server = QdrantServer(url="https://qdrant", ca_file=tmp_path)
    with pytest.raises(errors.StartupError, match="root certificates"):
        await asyncio.to_thread(server.connect, 1)
