"""The service over real gRPC, on fakes of what is behind the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.errors import EncoderUnavailable
from fakes import FakeEncoder, FakeFetcher, FakeIndex
from samples import png

URL = "https://example.com/red.png"
Stub = ImageSearchServiceStub


async def status_of(call: Awaitable[Message]) -> status_pb2.Status:
    """The status with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = dict(caught.value.trailing_metadata())[GRPC_DETAILS_METADATA_KEY]
    status = status_pb2.Status.FromString(details)
    assert status.code == caught.value.code().value[0]
    return status


def reason_of(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "clipsearch"
    return info.reason


async def bulk(stub: Stub, *items: pb.AddImagesRequest) -> dict[str, pb.AddImagesResponse]:
    async def requests() -> AsyncIterator[pb.AddImagesRequest]:
        for item in items:
            yield item

    return {response.item_id: response async for response in stub.AddImages(requests())}


def item(item_id: str, content: bytes, **more: str) -> pb.AddImagesRequest:
    return pb.AddImagesRequest(item_id=item_id, request=pb.AddImageRequest(content=content, **more))


async def test_add_then_find(service: Stub) -> None:
    for colour in ("red", "green", "blue"):
        added = await service.AddImage(pb.AddImageRequest(content=png(colour), uri=colour))
        assert added.outcome == pb.ADD_OUTCOME_ADDED
    call = service.QueryText(pb.QueryTextRequest(text="blue"))
    found = await call
    assert found.hits[0].image.uri == "blue"
    assert len(found.hits) == 2  # the server's default
    assert not found.text_truncated
    timing = dict(await call.trailing_metadata())["server-timing"]
    assert [stage.partition(";dur=")[0] for stage in timing.split(", ")] == [
        "tokenise",
        "embed",
        "search",
        "total",
    ]


async def test_pages_of_a_query_and_of_the_list_hold_everything_once(service: Stub) -> None:
    for shade in range(7):
        await service.AddImage(pb.AddImageRequest(content=png(f"#{shade:02x}0000")))
    ids: dict[str, list[str]] = {"query": [], "list": []}
    query = pb.QueryTextRequest(text="red", limit=3)
    while True:
        found = await service.QueryText(query)
        ids["query"] += [hit.image.id for hit in found.hits]
        query.page_token = found.next_page_token
        if not found.next_page_token:
            break
    listing = pb.ListImagesRequest(page_size=3)
    while True:
        listed = await service.ListImages(listing)
        assert listed.total_size == 7
        ids["list"] += [image.id for image in listed.images]
        listing.page_token = listed.next_page_token
        if not listed.next_page_token:
            break
    for found_ids in ids.values():
        assert len(found_ids) == len(set(found_ids)) == 7
    assert ids["list"] == sorted(ids["list"])


async def test_get_and_delete(service: Stub) -> None:
    added = await service.AddImage(pb.AddImageRequest(content=png("red")))
    got = await service.GetImage(pb.GetImageRequest(id=added.image.id))
    assert got.image == added.image
    await service.DeleteImage(pb.DeleteImageRequest(id=added.image.id))
    status = await status_of(service.GetImage(pb.GetImageRequest(id=added.image.id)))
    assert (status.code, reason_of(status)) == (code_pb2.NOT_FOUND, "IMAGE_NOT_FOUND")


async def test_the_server_says_what_it_is(service: Stub) -> None:
    await service.AddImage(pb.AddImageRequest(content=png("red")))
    info = await service.GetServerInfo(pb.GetServerInfoRequest())
    assert info.version == "1.2.3"
    assert [(each.name, each.image_count) for each in info.collections] == [("images-1", 1)]


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "word"),
    [
        ("QueryText", pb.QueryTextRequest(), 3, "INVALID_FIELD", "text"),
        ("QueryText", pb.QueryTextRequest(text="a", limit=-1), 3, "INVALID_FIELD", "limit"),
        (
            "QueryText",
            pb.QueryTextRequest(text="a", collection="b"),
            5,
            "COLLECTION_NOT_FOUND",
            "b",
        ),
        ("AddImage", pb.AddImageRequest(), 3, "INVALID_FIELD", "source"),
        ("AddImage", pb.AddImageRequest(url=""), 3, "URL_MALFORMED", "url"),
        ("AddImage", pb.AddImageRequest(content=b"text"), 3, "IMAGE_FORMAT_UNSUPPORTED", "PNG"),
        (
            "AddImage",
            pb.AddImageRequest(content=png("red")[:50]),
            3,
            "IMAGE_UNDECODABLE",
            "broken",
        ),
        ("AddImage", pb.AddImageRequest(content=png("red"), id="7"), 3, "INVALID_FIELD", "UUID"),
        ("AddImage", pb.AddImageRequest(url="https://example.com/no"), 9, "SOURCE_HTTP_STATUS", ""),
        ("GetImage", pb.GetImageRequest(id=""), 3, "INVALID_FIELD", "id"),
        ("ListImages", pb.ListImagesRequest(page_size=-1), 3, "INVALID_FIELD", "page_size"),
        ("ListImages", pb.ListImagesRequest(page_token="x"), 3, "INVALID_FIELD", "page_token"),
        ("DeleteImage", pb.DeleteImageRequest(id="x"), 3, "INVALID_FIELD", "id"),
    ],
)
async def test_bad_input_is_told_by_name(
    service: Stub, method: str, request_: Message, code: int, reason: str, word: str
) -> None:
    status = await status_of(getattr(service, method)(request_))
    assert (status.code, reason_of(status)) == (code, reason)
    assert word in status.message
    listed = await service.ListImages(pb.ListImagesRequest())
    assert listed.total_size == 0


@pytest.mark.parametrize(("limit", "found"), [(0, 2), (1, 1), (2**31 - 1, 3)])
async def test_row_26_a_limit_has_a_default_and_a_bound(
    service: Stub, limit: int, found: int
) -> None:
    for colour in ("red", "green", "blue"):
        await service.AddImage(pb.AddImageRequest(content=png(colour)))
    answer = await service.QueryText(pb.QueryTextRequest(text="red", limit=limit))
    assert len(answer.hits) == found


@pytest.mark.parametrize(
    "request_",
    [
        pb.QueryTextRequest(text="a", limit=-1),
        pb.QueryTextRequest(text="a", limit=-(2**31)),
        pb.QueryTextsRequest(texts=["a"], limit=-1),
        pb.QueryImageRequest(content=png("red"), limit=-1),
        pb.QueryRequest(terms=[pb.QueryTerm(text="a")], limit=-1),
        pb.ListImagesRequest(page_size=-1),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_row_26_a_negative_limit_is_refused(service: Stub, request_: Message) -> None:
    method = type(request_).__name__.removesuffix("Request")
    status = await status_of(getattr(service, method)(request_))
    assert (status.code, reason_of(status)) == (code_pb2.INVALID_ARGUMENT, "INVALID_FIELD")
    assert status.message.partition(":")[0] in {"limit", "page_size"}


async def test_a_poison_item_fails_alone(service: Stub) -> None:
    items = [item(str(n), png(f"#{n:02x}0000")) for n in range(9)]
    items.insert(4, item("poison", b"no image"))
    items.append(item("x" * 300, png("blue")))
    responses = await bulk(service, *items)
    assert len(responses) == 11
    failed = {name for name, response in responses.items() if response.HasField("error")}
    assert failed == {"poison", "x" * 300}
    assert responses["poison"].error.code == code_pb2.INVALID_ARGUMENT
    assert reason_of(responses["poison"].error) == "IMAGE_FORMAT_UNSUPPORTED"
    assert (await service.ListImages(pb.ListImagesRequest())).total_size == 9


async def test_an_empty_stream_is_answered_with_none(service: Stub) -> None:
    assert await bulk(service) == {}


async def test_row_33_an_unexpected_error_tells_only_its_id(
    service: Stub, encoder: FakeEncoder, index: FakeIndex, caplog: pytest.LogCaptureFixture
) -> None:
    """In a call, in an item of a stream, and in a stream of answers."""
    encoder.fail_with = RuntimeError("secret of the encoder")
    statuses = [
        await status_of(service.QueryText(pb.QueryTextRequest(text="red"))),
        (await bulk(service, item("a", png("red"))))["a"].error,
    ]
    index.fail_with = KeyError("secret of the index")
    statuses.append(await status_of(service.GetImage(pb.GetImageRequest(id=str(UUID(int=1))))))
    statuses.append(await status_of(service.ExportImages(pb.ExportImagesRequest()).read()))
    ids = []
    for status in statuses:
        assert status.code == code_pb2.INTERNAL
        assert reason_of(status) == "INTERNAL"
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        ids.append(info.metadata["error_id"])
        assert b"secret" not in status.SerializeToString()
    assert len({status.message for status in statuses}) == 1
    assert len(set(ids)) == 4
    told = {record.getMessage(): record for record in caplog.records if record.exc_info}
    for error_id in ids:
        (logged,) = (record for message, record in told.items() if error_id in message)
        assert logged.exc_info is not None
        assert "secret" in str(logged.exc_info[1])


async def test_a_dead_encoder_is_unavailable_and_back_again(
    service: Stub, encoder: FakeEncoder
) -> None:
    encoder.fail_with = EncoderUnavailable("the encoder is gone")
    status = await status_of(service.QueryText(pb.QueryTextRequest(text="red")))
    assert (status.code, reason_of(status)) == (code_pb2.UNAVAILABLE, "MODEL_UNAVAILABLE")
    encoder.fail_with = None
    await service.QueryText(pb.QueryTextRequest(text="red"))


async def test_what_is_over_the_bound_is_refused_and_told_when_to_retry(
    service: Stub, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    calls = [service.QueryText(pb.QueryTextRequest(text=f"red {n}")) for n in range(8)]
    await encoder.until_waiting(8)
    refused = service.QueryText(pb.QueryTextRequest(text="red"))
    status = await status_of(refused)
    assert (status.code, reason_of(status)) == (code_pb2.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED")
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    pushback = dict(await refused.trailing_metadata())["grpc-retry-pushback-ms"]
    assert int(pushback) == retry.retry_delay.ToMilliseconds() > 0
    encoder.gate.set()
    await asyncio.gather(*calls)


async def test_a_stream_in_which_nothing_moves_gives_its_place_back(
    impatient_service: Stub,
) -> None:
    async def one_and_no_more() -> AsyncIterator[pb.AddImagesRequest]:
        yield item("a", png("red"))
        await asyncio.Event().wait()

    # More than there are places, one after the other.
    for _ in range(9):
        call = impatient_service.AddImages(one_and_no_more())
        assert (await call.read()).item_id == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no message came or went for 0.1 s" in (caught.value.details() or "")


async def test_an_export_whose_request_does_not_come_is_told_so(
    impatient_channel: grpc.aio.Channel,
) -> None:
    # gRPC's stubs send the message with the call, so this one says that it is a stream.
    call = impatient_channel.stream_stream("/clipsearch.v1.ImageSearchService/ExportImages")()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_deadline_ends_the_call_and_its_work(service: Stub, encoder: FakeEncoder) -> None:
    encoder.gate.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.QueryText(pb.QueryTextRequest(text="red"), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await encoder.until_waiting(0)


async def test_row_31_a_call_without_a_deadline_gets_the_servers(
    impatient_service: Stub, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    status = await status_of(impatient_service.QueryText(pb.QueryTextRequest(text="red")))
    assert (status.code, reason_of(status)) == (code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    await encoder.until_waiting(0)


async def test_row_31_a_call_that_brings_no_message_gets_the_servers_deadline(
    impatient_channel: grpc.aio.Channel,
) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    # gRPC's stubs send the message with the call, so this one says that it is a stream.
    call = impatient_channel.stream_unary("/clipsearch.v1.ImageSearchService/GetServerInfo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(5):
            await call(nothing(), timeout=600)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_no_query_text_and_no_url_is_logged(
    service: Stub, fetcher: FakeFetcher, caplog: pytest.LogCaptureFixture
) -> None:
    fetcher.bodies[f"{URL}?token=hush"] = png("red")
    with caplog.at_level(logging.INFO):
        headers = {"Authorization": "hush"}
        await service.AddImage(pb.AddImageRequest(url=f"{URL}?token=hush", fetch_headers=headers))
        bad = pb.AddImageRequest(url=URL, fetch_headers={"Host": "hush"})
        status = await status_of(service.AddImage(bad))
        assert reason_of(status) == "INVALID_FIELD"
        await service.QueryText(pb.QueryTextRequest(text="my private wish"))
    assert fetcher.headers == {f"{URL}?token=hush": headers}
    assert "hush" not in str(status)
    assert "method=QueryText code=OK" in caplog.text
    assert "hush" not in caplog.text
    assert "wish" not in caplog.text


async def test_the_log_tells_why_images_were_refused(
    service: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await bulk(service, item("a", png("red")), item("b", b"no image"), item("c", b"nor this"))
        await status_of(service.AddImage(pb.AddImageRequest(content=b"no image")))
    assert "added items=3 IMAGE_FORMAT_UNSUPPORTED=2 ADDED=1" in caplog.text
    assert "method=AddImage code=INVALID_ARGUMENT reason=IMAGE_FORMAT_UNSUPPORTED " in caplog.text


BROKEN = b"\x0a\x02\xff\xfe"  # field 1, a string that is not UTF-8
SERVICE = "/clipsearch.v1.ImageSearchService"


async def test_an_item_that_cannot_be_parsed_fails_alone(channel: grpc.aio.Channel) -> None:
    good = [item(name, png(name)) for name in ("red", "green", "blue")]

    async def requests() -> AsyncIterator[bytes]:
        yield good[0].SerializeToString()
        yield BROKEN
        yield good[1].SerializeToString()
        yield good[2].SerializeToString()

    call = channel.stream_stream(
        f"{SERVICE}/AddImages", response_deserializer=pb.AddImagesResponse.FromString
    )
    results = {response.item_id: response async for response in call(requests())}
    assert results.keys() == {"red", "green", "blue", ""}
    assert reason_of(results[""].error) == "INVALID_FIELD"
    assert all(results[name].HasField("response") for name in ("red", "green", "blue"))


async def test_a_request_that_cannot_be_parsed_is_the_callers_fault(
    channel: grpc.aio.Channel,
) -> None:
    call = channel.unary_unary(
        f"{SERVICE}/QueryText", response_deserializer=pb.QueryTextResponse.FromString
    )
    status = await status_of(call(BROKEN))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert reason_of(status) == "INVALID_FIELD"


async def test_a_collections_name_may_be_too_long_to_be_told(service: Stub) -> None:
    status = await status_of(
        service.QueryText(pb.QueryTextRequest(text="red", collection="x" * 100_000))
    )
    assert status.code == code_pb2.NOT_FOUND
    assert reason_of(status) == "COLLECTION_NOT_FOUND"


async def test_a_stream_takes_no_more_bytes_than_there_is_memory_for(
    service: Stub, encoder: FakeEncoder, executor: ThreadPoolExecutor
) -> None:
    """Two of these images fit, and four would by their number."""
    encoder.gate.clear()
    items = [item(str(n), png(f"#{n:02x}0000") + bytes(90_000)) for n in range(20)]
    adding = asyncio.create_task(bulk(service, *items))
    await encoder.until_waiting(2)
    for _ in range(20):  # more steps than a third would need
        await asyncio.get_running_loop().run_in_executor(executor, int)
    assert encoder.most_waiting == 2
    encoder.gate.set()
    results = await adding
    assert len(results) == 20
    assert all(result.response.outcome == pb.ADD_OUTCOME_ADDED for result in results.values())


async def test_a_duplicate_names_the_image_that_is_there(service: Stub) -> None:
    first = await service.AddImage(pb.AddImageRequest(content=png("red")))
    assert first.duplicate_of == ""
    request = pb.AddImageRequest(content=png("red"), id="7d444840-9dc0-11d1-b245-5ffdce74fad2")
    twin = await service.AddImage(request)
    assert twin.outcome == pb.ADD_OUTCOME_DUPLICATE
    assert twin.duplicate_of == twin.image.id == first.image.id
    assert twin.image.duplicate_of == ""


@pytest.mark.parametrize("duplicates", ["link"])
async def test_a_link_names_its_original(service: Stub) -> None:
    first = await service.AddImage(pb.AddImageRequest(content=png("red")))
    request = pb.AddImageRequest(content=png("red"), id="7d444840-9dc0-11d1-b245-5ffdce74fad2")
    twin = await service.AddImage(request)
    got = await service.GetImage(pb.GetImageRequest(id=request.id))
    assert twin.duplicate_of == got.image.duplicate_of == first.image.id
    assert got.image.id == request.id
