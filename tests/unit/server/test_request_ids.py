"""A request that names itself is worked on once, whatever becomes of its answer (AIP-155)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from uuid import UUID

import pytest
from google.rpc import code_pb2

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub as Stub
from clipsearch_server.errors import EncoderUnavailable, InvalidRequest
from clipsearch_server.rpc.request_ids import RequestIds, request_digest
from fakes import FakeEncoder
from samples import png
from unit.server.test_service import bulk, reason_of, status_of

NAME = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
ID, DIGEST = UUID(NAME), b"digest"


def request(colour: str = "red", request_id: str = NAME, **more: str) -> pb.AddImageRequest:
    return pb.AddImageRequest(content=png(colour), request_id=request_id, **more)


class Work:
    """Answers with how often it was asked; waits until it is let go, which it is at first."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.fail_with: Exception | None = None

    async def __call__(self) -> pb.AddImageResponse:
        self.calls += 1
        self.begun.set()
        await self.gate.wait()
        if self.fail_with is not None:
            raise self.fail_with
        return pb.AddImageResponse(duplicate_of=str(self.calls))


async def refused(call: Awaitable[object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await call
    assert (caught.value.field, caught.value.reason) == ("request_id", "REQUEST_ID_REUSED")


async def test_a_hundred_at_once_are_one() -> None:
    ids, work = RequestIds(), Work()
    answers = await asyncio.gather(*(ids.once(ID, DIGEST, work) for _ in range(100)))
    assert [answer.duplicate_of for answer in answers] == ["1"] * 100
    assert work.calls == 1


async def test_row_27_another_request_of_the_same_id_is_refused_during_and_after() -> None:
    ids, work = RequestIds(), Work()
    work.gate.clear()
    first = asyncio.create_task(ids.once(ID, DIGEST, work))
    await work.begun.wait()
    await refused(ids.once(ID, b"other", work))
    work.gate.set()
    await first
    await refused(ids.once(ID, b"other", work))
    assert work.calls == 1


async def test_a_failure_is_not_remembered() -> None:
    ids, work = RequestIds(), Work()
    work.fail_with = EncoderUnavailable("gone")
    for _ in range(2):
        with pytest.raises(EncoderUnavailable):
            await ids.once(ID, DIGEST, work)
    work.fail_with = None
    assert (await ids.once(ID, b"other", work)).duplicate_of == "3"


async def test_of_those_that_wait_the_next_takes_over_from_one_that_is_cancelled() -> None:
    ids, work = RequestIds(), Work()
    work.gate.clear()
    first = asyncio.create_task(ids.once(ID, DIGEST, work))
    await work.begun.wait()
    others = [asyncio.create_task(ids.once(ID, DIGEST, work)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    work.gate.set()
    assert [answer.duplicate_of for answer in await asyncio.gather(*others)] == ["2"] * 3


@pytest.mark.parametrize("bound", ["requests", "bytes", "time"])
async def test_what_is_remembered_is_bounded(bound: str) -> None:
    now = 0.0
    size = len(pb.AddImageResponse(duplicate_of="1").SerializeToString())
    ids = RequestIds(
        remember_s=60,
        max_requests=2 if bound == "requests" else 100,
        max_bytes=2 * size if bound == "bytes" else 2**20,
        clock=lambda: now,
    )
    work = Work()
    await ids.once(UUID(int=1), DIGEST, work)
    if bound == "time":
        now = 60
    await ids.once(UUID(int=2), DIGEST, work)
    await ids.once(UUID(int=3), DIGEST, work)
    assert (await ids.once(UUID(int=2), DIGEST, work)).duplicate_of == "2"
    assert (await ids.once(UUID(int=1), DIGEST, work)).duplicate_of == "4"


def test_a_digest_is_of_everything_in_the_request() -> None:
    requests = [
        request(),
        request("blue"),
        request(uri="a"),
        request(collection="images"),
        pb.AddImageRequest(url="https://example.com", fetch_headers={"A": "1"}),
        pb.AddImageRequest(url="https://example.com", fetch_headers={"A": "2"}),
    ]
    assert len({request_digest(each) for each in requests}) == len(requests)
    one, other = request(), request()
    one.metadata.update({"a": 1, "b": 2})
    other.metadata.update({"b": 2, "a": 1})
    assert request_digest(one) == request_digest(other)


# Over gRPC ---------------------------------------------------------------------------------------


async def test_row_27_a_repetition_gets_the_first_response_whatever_came_between(
    service: Stub,
) -> None:
    first = await service.AddImage(request())
    await service.DeleteImage(pb.DeleteImageRequest(id=first.image.id))
    assert await service.AddImage(request()) == first
    assert first.outcome == pb.ADD_OUTCOME_ADDED
    again = await service.AddImage(request(request_id=""))
    assert again.outcome == pb.ADD_OUTCOME_ADDED  # it was deleted, and not added since


async def test_an_item_of_a_stream_is_the_same_request(service: Stub) -> None:
    first = await service.AddImage(request())
    items = [pb.AddImagesRequest(item_id=str(n), request=request()) for n in range(20)]
    items += [pb.AddImagesRequest(item_id="other", request=request("blue"))]
    results = await bulk(service, *items)
    other = results.pop("other")
    assert (other.error.code, reason_of(other.error)) == (3, "REQUEST_ID_REUSED")
    assert [result.response for result in results.values()] == [first] * 20


async def test_a_hundred_at_once_embed_once(service: Stub, encoder: FakeEncoder) -> None:
    items = [pb.AddImagesRequest(item_id=str(n), request=request()) for n in range(100)]
    results = await bulk(service, *items)
    assert len(results) == 100
    assert len({result.response.SerializeToString() for result in results.values()}) == 1
    assert results["0"].response.outcome == pb.ADD_OUTCOME_ADDED
    assert encoder.images_embedded == 1


async def test_what_is_no_uuid_is_refused(service: Stub) -> None:
    status = await status_of(service.AddImage(request(request_id="once")))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert status.message.startswith("request_id: is not a UUID")


async def test_a_call_that_failed_may_be_made_again(service: Stub, encoder: FakeEncoder) -> None:
    encoder.fail_with = EncoderUnavailable("gone")
    await status_of(service.AddImage(request()))
    encoder.fail_with = None
    assert (await service.AddImage(request())).outcome == pb.ADD_OUTCOME_ADDED
