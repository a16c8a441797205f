"""Export and import: what is checked of a page, and the streams over real gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub as Stub
from clipsearch_server.adding import AddOutcome, NewImage
from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import IndexUnavailable, InvalidRequest
from clipsearch_server.ports import EmbeddedPage, Embeddings, StoredImage
from clipsearch_server.rpc import transfer
from fakes import FakeEncoder, FakeIndex
from samples import png

DIM = 3
OURS = "c" * 64  # the fingerprint of the service's model

IMAGE = StoredImage(
    id=UUID(int=7),
    url="https://example.com/cat.jpg",
    uri="cat",
    metadata={"n": 0.1, "tags": ["a", None, True], "nested": {"zero": -0.0}},
    sha256="0" * 64,
    media_type="image/jpeg",
    width_px=640,
    height_px=480,
    size_bytes=12_345,
    create_time=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
    update_time=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
    duplicate_of=UUID(int=8),
)


def images(count: int) -> list[StoredImage]:
    return [replace(IMAGE, id=UUID(int=number), uri=str(number)) for number in range(count)]


def unit_vectors(count: int, seed: int = 0) -> Embeddings:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def messages(count: int) -> list[pb.EmbeddedImage]:
    page = EmbeddedPage(images(count), unit_vectors(count), None)
    return list(transfer.export_response(page).images)


def request(*embedded: pb.EmbeddedImage, fingerprint: str = OURS) -> pb.ImportImagesRequest:
    return pb.ImportImagesRequest(model_fingerprint=fingerprint, images=embedded)


async def import_all(stub: Stub, *requests: pb.ImportImagesRequest) -> list[int]:
    async def one_by_one() -> AsyncIterator[pb.ImportImagesRequest]:
        for each in requests:
            yield each

    return [response.image_count async for response in stub.ImportImages(one_by_one())]


async def export_all(stub: Stub, **fields: str) -> list[pb.ExportImagesResponse]:
    return [response async for response in stub.ExportImages(pb.ExportImagesRequest(**fields))]


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(error.trailing_metadata())[GRPC_DETAILS_METADATA_KEY])


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status_of(error).details[0].Unpack(info)
    return info


# A page -----------------------------------------------------------------------------------------


def test_a_page_comes_back_as_it_was() -> None:
    stored, embeddings = transfer.imported_images(request(*messages(20)), DIM)
    assert stored == images(20)
    exact = [json.dumps(image.metadata, sort_keys=True) for image in (stored[0], IMAGE)]
    assert exact[0] == exact[1]  # -0.0 too
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings, unit_vectors(20))


@given(
    vector=st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM).filter(
        lambda numbers: np.linalg.norm(numbers) > 0.01
    ),
    time=st.datetimes(timezones=st.just(UTC)),
    size_bytes=st.integers(1, 2**63 - 1),
)
def test_every_image_that_a_server_can_store_is_taken(
    vector: list[float], time: datetime, size_bytes: int
) -> None:
    embedding = np.array([vector], np.float32) / np.float32(np.linalg.norm(vector))
    image = replace(IMAGE, create_time=time, update_time=time, size_bytes=size_bytes)
    message = transfer.export_response(EmbeddedPage([image], embedding, None)).images[0]
    stored, embeddings = transfer.imported_images(request(message), DIM)
    assert stored == [image]
    assert np.array_equal(embeddings, embedding)


def too_deep() -> Struct:
    value: Any = "x"
    for _ in range(20):
        value = {"a": value}
    struct = Struct()
    struct.update(value)
    return struct


def number(value: float) -> Struct:
    struct = Struct()
    struct.update({"a": value})
    return struct


def long(length: int) -> Struct:
    struct = Struct()
    struct.update({"a": "x" * length})
    return struct


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "7"),
        ("url", "x" * 2049),
        ("uri", "ä" * 1025),
        ("metadata", too_deep()),
        ("metadata", number(float("nan"))),
        ("metadata", long(17_000)),
        ("sha256", ""),
        ("sha256", "A" * 64),
        ("sha256", "a" * 63),
        ("media_type", ""),
        ("media_type", "text/html"),
        ("media_type", "image/" + "x" * 65),
        ("width_px", 0),
        ("height_px", -1),
        ("size_bytes", 0),
        ("create_time", None),
        ("update_time", None),
        ("create_time", Timestamp(seconds=2**40)),
        ("update_time", Timestamp(seconds=1, nanos=-1000)),
        ("update_time", Timestamp(seconds=1, nanos=1)),
    ],
)
def test_a_bad_field_is_told_by_its_path(field: str, value: Any) -> None:
    page = messages(5)
    page[3].image.ClearField(field)  # type: ignore[arg-type]
    if value is not None:
        page[3].image.MergeFrom(pb.Image(**{field: value}))
    with pytest.raises(InvalidRequest) as caught:
        transfer.imported_images(request(*page), DIM)
    assert caught.value.field == f"images[3].image.{field}"


@pytest.mark.parametrize(
    "embedding",
    [
        [],
        [1.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.6, 0.8, 0.1],
        [1.0011, 0.0, 0.0],
        [float("nan"), 0.0, 0.0],
        [float("inf"), 0.0, 0.0],
        [3e38, 3e38, 3e38],
    ],
)
def test_what_is_no_embedding_is_told_by_its_path(embedding: list[float]) -> None:
    page = messages(5)
    page[3].embedding[:] = embedding
    with pytest.raises(InvalidRequest) as caught:
        transfer.imported_images(request(*page), DIM)
    assert caught.value.field == "images[3].embedding"


def test_an_embedding_of_half_precision_is_taken() -> None:
    page = messages(1)
    page[0].embedding[:] = np.array(page[0].embedding, np.float16).tolist()
    _, embeddings = transfer.imported_images(request(*page), DIM)
    assert embeddings[0].tolist() == list(page[0].embedding)


def test_an_embedding_without_an_image_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        transfer.imported_images(request(pb.EmbeddedImage(embedding=[1, 0, 0])), DIM)
    assert caught.value.field == "images[0].image"


def test_a_page_has_a_limit() -> None:
    assert len(transfer.imported_images(request(*messages(128)), DIM)[0]) == 128
    with pytest.raises(InvalidRequest) as caught:
        transfer.imported_images(request(*messages(129)), DIM)
    assert caught.value.field == "images"


# The streams ------------------------------------------------------------------------------------


async def test_what_was_exported_can_be_imported(service: Stub, index: FakeIndex) -> None:
    await index.upsert(images(150), unit_vectors(150))
    head, *pages = await export_all(service)
    assert (head.model.fingerprint, head.total_size, len(head.images)) == (OURS, 150, 0)
    assert [len(page.images) for page in pages] == [64, 64, 22]
    assert not any(page.HasField("model") for page in pages)
    await index.delete([image.id for image in images(150)])
    counts = await import_all(service, *(request(*page.images) for page in pages))
    assert counts == [64, 128, 150]
    again = await index.list_embedded(limit=1000)
    assert again.images == images(150)
    assert np.array_equal(again.embeddings, unit_vectors(150))


async def test_an_export_starts_where_it_is_told(service: Stub, index: FakeIndex) -> None:
    await index.upsert(images(10), unit_vectors(10))
    _, page = await export_all(service, start_id=str(UUID(int=8)))
    assert [it.image.uri for it in page.images] == ["8", "9"]


async def test_an_empty_collection_is_a_model_and_no_images(service: Stub) -> None:
    responses = await export_all(service)
    assert responses[0].model.fingerprint == OURS
    assert not any(response.images for response in responses)
    assert await import_all(service) == []
    assert await import_all(service, request()) == [0]


async def test_an_import_replaces_and_keeps_the_times(service: Stub, index: FakeIndex) -> None:
    await index.upsert([IMAGE], unit_vectors(1))
    newer = replace(IMAGE, uri="new", create_time=datetime(2000, 1, 1, tzinfo=UTC))
    page = EmbeddedPage([newer], unit_vectors(1, seed=1), None)
    message = transfer.export_response(page).images[0]
    for _ in range(2):
        assert await import_all(service, request(message)) == [1]
        stored = await index.list_embedded(limit=10)
        assert stored.images == [newer]
        assert np.array_equal(stored.embeddings, page.embeddings)


async def test_another_models_images_are_refused(service: Stub, index: FakeIndex) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await import_all(service, request(*messages(3), fingerprint="d" * 64))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    info = info_of(caught.value)
    assert info.reason == "MODEL_MISMATCH"
    assert dict(info.metadata) == {"images_fingerprint": "d" * 64, "server_fingerprint": OURS}
    assert await index.count() == 0


async def test_a_page_at_fault_ends_the_stream_and_leaves_what_was_stored(
    service: Stub, index: FakeIndex
) -> None:
    bad = messages(2)
    bad[1].embedding[0] = 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await import_all(service, request(*messages(5)), request(*bad))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "images[1].embedding" in (caught.value.details() or "")
    assert [image.uri for image in (await index.list(limit=10)).images] == list("01234")


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"start_id": "7"}, "start_id"), ({"collection": "pets"}, "pets")],
)
async def test_a_bad_export_is_told_by_name(
    service: Stub, fields: dict[str, str], word: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await export_all(service, **fields)
    assert word in status_of(caught.value).message


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (pb.ImportImagesRequest(), "model_fingerprint"),
        (pb.ImportImagesRequest(model_fingerprint=OURS, collection="pets"), "pets"),
        (pb.ImportImagesRequest(model_fingerprint="x" * 100_000), "xxx"),
    ],
)
async def test_a_bad_import_is_told_by_name(
    service: Stub, bad: pb.ImportImagesRequest, word: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await import_all(service, bad)
    assert word in status_of(caught.value).message


@pytest.mark.parametrize("method", ["ExportImages", "ImportImages"])
async def test_what_cannot_be_parsed_is_the_callers_fault(
    channel: grpc.aio.Channel, method: str
) -> None:
    broken = b"\x0a\x02\xff\xfe"  # field 1, a string that is not UTF-8

    async def requests() -> AsyncIterator[bytes]:
        yield broken

    path = f"/clipsearch.v1.ImageSearchService/{method}"
    call: Any
    if method == "ExportImages":
        call = channel.unary_stream(path)(broken)
    else:
        call = channel.stream_stream(path)(requests())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_index_that_is_gone_ends_an_export_as_unavailable(
    service: Stub, index: FakeIndex
) -> None:
    index.fail_with = IndexUnavailable("the index is gone")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await export_all(service)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_leaves_ends_the_export(
    service: Stub, index: FakeIndex, caplog: pytest.LogCaptureFixture
) -> None:
    """The export of as much as no buffer on the way holds."""
    large = [replace(image, metadata={"text": "x" * 16_000}) for image in images(5000)]
    await index.upsert(large, unit_vectors(5000))
    with caplog.at_level("INFO"):
        call = service.ExportImages(pb.ExportImagesRequest())
        await call.read()
        call.cancel()
        while "method=ExportImages" not in caplog.text:
            await service.GetServerInfo(pb.GetServerInfoRequest())
    assert "method=ExportImages code=CANCELLED" in caplog.text


# Beside an add ----------------------------------------------------------------------------------


async def test_an_import_waits_for_an_add_of_the_same_id(
    engine: SearchEngine, encoder: FakeEncoder, index: FakeIndex
) -> None:
    encoder.gate.clear()
    new = NewImage(url=None, content=png("red"), id=IMAGE.id, uri="added", metadata={})
    add = asyncio.create_task(engine.add(new))
    await encoder.until_waiting(1)
    importing = asyncio.create_task(engine.import_images([IMAGE], unit_vectors(1)))
    other = replace(IMAGE, id=UUID(int=8))
    await engine.import_images([other], unit_vectors(1))
    assert await index.get([IMAGE.id]) == []
    encoder.gate.set()
    assert (await add).outcome is AddOutcome.ADDED
    await importing
    assert await index.get([IMAGE.id]) == [IMAGE]


async def test_imports_of_the_same_ids_do_not_wait_for_each_other_for_ever(
    engine: SearchEngine, index: FakeIndex
) -> None:
    forth = images(50)
    twice = [*forth, *reversed(forth)]
    pages = (forth, forth[::-1], twice, twice[::-1])
    await asyncio.gather(*(engine.import_images(page, unit_vectors(len(page))) for page in pages))
    assert await index.count() == 50
