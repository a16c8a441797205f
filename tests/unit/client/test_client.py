"""Both clients against a real gRPC server: what is asked, what comes back."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

import clipsearch
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import Driver, ScriptedService, make_image, make_status

UNAVAILABLE = make_status(
    grpc.StatusCode.UNAVAILABLE, "the index does not answer", "INDEX_UNAVAILABLE"
)
BUSY = make_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much is in flight", "SERVER_OVERLOADED")


def busy_for(milliseconds: int) -> Any:
    return make_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "too much is in flight",
        "SERVER_OVERLOADED",
        error_details_pb2.RetryInfo(retry_delay=Duration(nanos=milliseconds * 1_000_000)),
    )


async def test_add_image_by_url(service: ScriptedService, driver: Driver) -> None:
    service.answer(
        "AddImage", pb.AddImageResponse(image=make_image(1), outcome=pb.ADD_OUTCOME_ADDED)
    )
    added = await driver.call(
        "add_image",
        url="https://example.com/cat.png",
        id="00000000-0000-0000-0000-000000000001",
        uri="shelf:3",
        metadata={"year": 2020, "tags": ["cat", None, True, 0.5], "by": {"name": "Ada"}},
        collection="pets",
    )
    assert added.outcome is clipsearch.AddOutcome.ADDED
    assert added.image.id == "00000000-0000-0000-0000-000000000001"
    [request] = service.requests["AddImage"]
    assert request.WhichOneof("source") == "url"
    assert request.url == "https://example.com/cat.png"
    assert (request.id, request.uri, request.collection) == (added.image.id, "shelf:3", "pets")
    assert request.metadata["tags"][3] == 0.5


async def test_add_image_by_content_of_the_largest_size_a_server_takes(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer(
        "AddImage", pb.AddImageResponse(image=make_image(), outcome=pb.ADD_OUTCOME_REPLACED)
    )
    content = bytes(20 * 1024 * 1024)
    added = await driver.call("add_image", content=content)
    assert added.outcome is clipsearch.AddOutcome.REPLACED
    [request] = service.requests["AddImage"]
    assert request.content == content
    assert not request.HasField("metadata")


@pytest.mark.parametrize("sources", [{}, {"url": "http://a.example", "content": b"x"}])
async def test_add_image_wants_one_source(sources: dict[str, Any], driver: Driver) -> None:
    with pytest.raises(TypeError, match="either url or content"):
        await driver.call("add_image", **sources)


async def test_an_image_comes_back_whole(service: ScriptedService, driver: Driver) -> None:
    stored = make_image(
        7,
        url="https://example.com/cat.png",
        create_time=Timestamp(seconds=1_700_000_000, nanos=500_000),
        update_time=Timestamp(seconds=1_700_000_001),
    )
    metadata = {"year": 2020, "score": 0.5, "tags": ["cat", None, True], "by": {"name": "Ada"}}
    stored.metadata.update(metadata)
    service.answer("GetImage", pb.GetImageResponse(image=stored))
    assert await driver.call("get_image", stored.id, collection="pets") == clipsearch.Image(
        id=stored.id,
        url="https://example.com/cat.png",
        uri="file:///pictures/cat%207.png",
        metadata=metadata,
        sha256=stored.sha256,
        media_type="image/png",
        width_px=640,
        height_px=480,
        size_bytes=12_345,
        create_time=datetime(2023, 11, 14, 22, 13, 20, 500, tzinfo=UTC),
        update_time=datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC),
    )
    assert service.requests["GetImage"] == [pb.GetImageRequest(id=stored.id, collection="pets")]


async def test_metadata_numbers_that_are_whole_are_ints(
    service: ScriptedService, driver: Driver
) -> None:
    stored = make_image()
    stored.metadata.update({"year": 2020})
    service.answer("GetImage", pb.GetImageResponse(image=stored))
    year = (await driver.call("get_image", stored.id)).metadata["year"]
    assert (year, type(year)) == (2020, int)


async def test_query_text(service: ScriptedService, driver: Driver) -> None:
    def found(_: Any, context: grpc.ServicerContext) -> pb.QueryTextResponse:
        timing = "tokenise;dur=0.21, embed;dur=4.02, total;dur=5.10"
        context.set_trailing_metadata((("server-timing", timing),))
        hits = [pb.Hit(image=make_image(n), score=0.5 - n / 8) for n in range(2)]
        return pb.QueryTextResponse(
            hits=hits, next_page_token="next", token_count=77, text_truncated=True
        )

    service.answer("QueryText", found)
    result = await driver.call(
        "query_text", "a black cat", limit=2, score_threshold=0.0, page_token="t", collection="pets"
    )
    assert [(hit.image.id, hit.score) for hit in result.hits] == [
        ("00000000-0000-0000-0000-000000000000", 0.5),
        ("00000000-0000-0000-0000-000000000001", 0.375),
    ]
    assert (result.truncated, result.token_count, result.next_page_token) == (True, 77, "next")
    assert result.timings_ms == {"tokenise": 0.21, "embed": 4.02, "total": 5.1}
    [request] = service.requests["QueryText"]
    assert (request.text, request.limit, request.page_token) == ("a black cat", 2, "t")
    assert request.HasField("score_threshold")
    assert request.collection == "pets"


async def test_query_text_leaves_defaults_to_the_server(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryText", pb.QueryTextResponse())
    result = await driver.call("query_text", "a cat")
    assert (result.hits, result.timings_ms) == ((), {})
    assert service.requests["QueryText"] == [pb.QueryTextRequest(text="a cat")]


async def test_list_images_pages_by_itself(service: ScriptedService, driver: Driver) -> None:
    service.answer(
        "ListImages",
        pb.ListImagesResponse(images=[make_image(0), make_image(1)], next_page_token="second"),
        pb.ListImagesResponse(images=[], next_page_token="third"),  # AIP-158: empty is not the end
        pb.ListImagesResponse(images=[make_image(2)]),
    )
    images = await driver.collect("list_images", page_size=2, collection="pets")
    assert [image.id[-1] for image in images] == ["0", "1", "2"]
    tokens = [request.page_token for request in service.requests["ListImages"]]
    assert tokens == ["", "second", "third"]
    assert {(r.page_size, r.collection) for r in service.requests["ListImages"]} == {(2, "pets")}


async def test_list_page(service: ScriptedService, driver: Driver) -> None:
    service.answer(
        "ListImages",
        pb.ListImagesResponse(images=[make_image()], next_page_token="more", total_size=3),
    )
    page = await driver.call("list_page", "here", page_size=1)
    assert (len(page.images), page.next_page_token, page.total_size) == (1, "more", 3)


async def test_delete_image(service: ScriptedService, driver: Driver) -> None:
    service.answer("DeleteImage", pb.DeleteImageResponse())
    assert await driver.call("delete_image", "some-id", collection="pets") is None
    assert service.requests["DeleteImage"] == [
        pb.DeleteImageRequest(id="some-id", collection="pets")
    ]


async def test_server_info(service: ScriptedService, driver: Driver) -> None:
    service.answer(
        "GetServerInfo",
        pb.GetServerInfoResponse(
            version="0.1.0",
            model=pb.Model(id="demo", fingerprint="ab", precision="fp16", embedding_dim=256),
            encoder="onnxruntime",
            index="qdrant-edge",
            collections=[pb.Collection(name="images", image_count=3, is_default=True)],
            limits=pb.Limits(max_image_bytes=20, default_limit=5, fetch_enabled=True),
        ),
    )
    info = await driver.call("server_info")
    assert (info.version, info.encoder, info.index) == ("0.1.0", "onnxruntime", "qdrant-edge")
    assert (info.model.id, info.model.precision, info.model.embedding_dim) == ("demo", "fp16", 256)
    assert info.collections == (
        clipsearch.Collection(name="images", image_count=3, is_default=True),
    )
    assert (info.limits.max_image_bytes, info.limits.fetch_enabled) == (20, True)


async def test_unavailable_is_retried(service: ScriptedService, driver: Driver) -> None:
    service.answer("QueryText", UNAVAILABLE, UNAVAILABLE, pb.QueryTextResponse(token_count=3))
    assert (await driver.call("query_text", "a cat")).token_count == 3
    assert len(service.requests["QueryText"]) == 3


async def test_a_photograph_is_retried_too(service: ScriptedService, driver: Driver) -> None:
    response = pb.AddImageResponse(image=make_image(), outcome=pb.ADD_OUTCOME_ADDED)
    service.answer("AddImage", UNAVAILABLE, response)
    await driver.call("add_image", content=bytes(3_000_000))
    assert len(service.requests["AddImage"]) == 2


async def test_retrying_ends(service: ScriptedService, driver: Driver) -> None:
    service.answer("GetImage", UNAVAILABLE)
    with pytest.raises(clipsearch.UnavailableError, match="index does not answer") as caught:
        await driver.call("get_image", "x")
    assert caught.value.reason == "INDEX_UNAVAILABLE"
    assert len(service.requests["GetImage"]) == 4


async def test_an_overloaded_server_is_asked_again_when_it_says(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryText", busy_for(200), pb.QueryTextResponse(token_count=3))
    start = time.monotonic()
    assert (await driver.call("query_text", "a cat")).token_count == 3
    assert time.monotonic() - start >= 0.2


async def test_an_overloaded_server_is_not_asked_for_ever(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryText", busy_for(10))
    with pytest.raises(clipsearch.OverloadedError) as caught:
        await driver.call("query_text", "a cat")
    assert caught.value.retry_after_s == pytest.approx(0.01)
    assert len(service.requests["QueryText"]) == 3


@pytest.mark.parametrize(("answer", "timeout_s"), [(BUSY, 10), (busy_for(900), 0.5)])
async def test_an_overloaded_server_is_left_alone_without_leave_or_time(
    answer: Any, timeout_s: float, service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryText", answer)
    with pytest.raises(clipsearch.OverloadedError):
        await driver.call("query_text", "a cat", timeout_s=timeout_s)
    assert len(service.requests["QueryText"]) == 1


async def test_a_call_ends_at_its_deadline(service: ScriptedService, driver: Driver) -> None:
    def hang(_: Any, context: grpc.ServicerContext) -> pb.QueryTextResponse:
        while context.is_active():
            time.sleep(0.01)
        return pb.QueryTextResponse()

    service.answer("QueryText", hang)
    with pytest.raises(clipsearch.DeadlineExceededError, match="did not answer in time"):
        await driver.call("query_text", "a cat", timeout_s=0.2)


async def test_a_closed_port_is_named(unused_tcp_port: int) -> None:
    target = f"localhost:{unused_tcp_port}"
    sentence = f"^nothing answers at {target}$"
    with (
        clipsearch.SearchClient(target) as client,
        pytest.raises(clipsearch.UnavailableError, match=sentence),
    ):
        client.server_info()
    async with clipsearch.AsyncSearchClient(target) as aio_client:
        with pytest.raises(clipsearch.UnavailableError, match=sentence):
            await aio_client.server_info()


def test_a_proxy_is_not_asked_for_this_machine(
    service: ScriptedService, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    service.answer("QueryText", pb.QueryTextResponse(token_count=3))
    with clipsearch.SearchClient(service.target) as client:
        assert client.query_text("a cat").token_count == 3


async def test_a_client_closed_under_a_call_says_so(service: ScriptedService) -> None:
    asked, closed = threading.Event(), threading.Event()

    def wait(_: Any, context: grpc.ServicerContext) -> Any:
        asked.set()
        closed.wait(10)
        return pb.QueryTextResponse()

    service.answer("QueryText", wait)
    client = clipsearch.AsyncSearchClient(service.target)
    call = asyncio.create_task(client.query_text("a cat"))
    await asyncio.to_thread(asked.wait)
    await client.close()
    closed.set()
    with pytest.raises(clipsearch.SearchError) as caught:
        await call
    assert caught.value.code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e20])
async def test_a_timeout_may_be_as_long_as_one_likes(
    timeout_s: float, service: ScriptedService, driver: Driver
) -> None:
    service.answer("QueryText", pb.QueryTextResponse(token_count=3))
    assert (await driver.call("query_text", "a cat", timeout_s=timeout_s)).token_count == 3


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
async def test_a_timeout_is_positive(timeout_s: float, driver: Driver) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        await driver.call("query_text", "a cat", timeout_s=timeout_s)


async def test_metadata_may_be_any_mapping(service: ScriptedService, driver: Driver) -> None:
    service.answer("AddImage", pb.AddImageResponse(image=make_image(1)))
    nested = MappingProxyType({"tags": ("a", MappingProxyType({"b": 1}))})
    await driver.call("add_image", content=b"x", metadata=nested)
    (request,) = service.requests["AddImage"]
    assert json_format.MessageToDict(request.metadata) == {"tags": ["a", {"b": 1}]}
