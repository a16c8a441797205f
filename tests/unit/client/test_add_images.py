"""The bulk stream of both clients."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from clipsearch import (
    AddItem,
    AddOutcome,
    AsyncSearchClient,
    DeadlineExceededError,
    InvalidImageError,
    SearchClient,
    UnavailableError,
)
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import Driver, ScriptedService, added, make_status

NOT_AN_IMAGE = make_status(
    grpc.StatusCode.INVALID_ARGUMENT, "content: is not an image", "IMAGE_UNDECODABLE"
)


def make_items(count: int) -> Iterator[AddItem]:
    for number in range(count):
        yield AddItem(item_id=str(number), content=b"%d" % number, uri=f"u:{number}")


async def collect_into(results: list[Any], iterator: AsyncIterator[Any]) -> None:
    """Keeps what comes before an exception."""
    async for result in iterator:
        results.append(result)  # noqa: PERF401 - a comprehension would keep nothing


def add_all_but_every_tenth(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
    for request in requests:
        if int(request.item_id) % 10 == 0:
            yield pb.AddImagesResponse(item_id=request.item_id, error=NOT_AN_IMAGE)
        else:
            yield added(request)


async def test_every_item_gets_its_result(service: ScriptedService, driver: Driver) -> None:
    service.answer("AddImages", add_all_but_every_tenth)
    results = await driver.collect("add_images", make_items(1000))
    assert sorted(int(result.item_id) for result in results) == list(range(1000))
    for result in results:
        if int(result.item_id) % 10 == 0:
            assert result.added is None
            assert isinstance(result.error, InvalidImageError)
            assert result.error.reason == "IMAGE_UNDECODABLE"
        else:
            assert result.error is None
            assert result.added.outcome is AddOutcome.ADDED
            assert int(result.added.image.id[-12:]) == int(result.item_id)


async def test_results_may_come_in_any_order(service: ScriptedService, driver: Driver) -> None:
    def reverse(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        yield from reversed([added(request) for request in requests])

    service.answer("AddImages", reverse)
    results = await driver.collect("add_images", make_items(5))
    assert [result.item_id for result in results] == ["4", "3", "2", "1", "0"]


async def test_an_item_is_sent_whole(service: ScriptedService, driver: Driver) -> None:
    seen = []

    def keep(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            seen.append(request)
            yield added(request)

    service.answer("AddImages", keep)
    item = AddItem(
        item_id="1", url="http://a.example/1.png", id="some-id", uri="u", metadata={"k": "v"}
    )
    await driver.collect("add_images", [item], collection="pets")
    expected = pb.AddImageRequest(
        url="http://a.example/1.png", id="some-id", uri="u", collection="pets"
    )
    expected.metadata.update({"k": "v"})
    assert seen == [pb.AddImagesRequest(item_id="1", request=expected)]


async def test_no_items_no_results(service: ScriptedService, driver: Driver) -> None:
    service.answer("AddImages", add_all_but_every_tenth)
    assert await driver.collect("add_images", []) == []


async def test_items_are_consumed_as_results_are(service: ScriptedService, driver: Driver) -> None:
    service.answer("AddImages", add_all_but_every_tenth)
    taken = 0

    def counted() -> Iterator[AddItem]:
        nonlocal taken
        for item in make_items(1000):
            taken += 1
            yield item

    most_in_flight = 0
    done = 0
    async for _ in driver.iterate("add_images", counted(), max_in_flight=5):
        most_in_flight = max(most_in_flight, taken - done)
        done += 1
    assert (done, taken) == (1000, 1000)
    assert most_in_flight == 5


async def test_leaving_early_ends_the_call(service: ScriptedService, driver: Driver) -> None:
    ended = threading.Event()

    def answer(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(ended.set)
        for request in requests:
            yield added(request)

    service.answer("AddImages", answer)
    results = driver.iterate("add_images", make_items(1000), max_in_flight=4)
    async for result in results:
        assert result.error is None
        break
    await results.aclose()
    assert ended.wait(5)


async def test_an_exception_of_the_items_ends_the_call(
    service: ScriptedService, driver: Driver
) -> None:
    ended = threading.Event()

    def answer(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(ended.set)
        for request in requests:
            yield added(request)

    def broken() -> Iterator[AddItem]:
        yield from make_items(10)
        raise OSError("the disk is gone")

    service.answer("AddImages", answer)
    with pytest.raises(OSError, match="disk is gone"):
        await driver.collect("add_images", broken(), max_in_flight=4)
    assert ended.wait(5)


async def test_a_stream_that_fails_raises(service: ScriptedService, driver: Driver) -> None:
    unavailable = make_status(grpc.StatusCode.UNAVAILABLE, "going down", "INDEX_UNAVAILABLE")

    def answer_three(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for _ in range(3):
            yield added(next(requests))
        # Both items in flight: grpc.aio forgets the status if it comes while an item is being sent.
        for _ in range(2):
            next(requests)
        context.abort_with_status(rpc_status.to_status(unavailable))

    service.answer("AddImages", answer_three)
    results: list[Any] = []
    with pytest.raises(UnavailableError, match="going down"):
        await collect_into(results, driver.iterate("add_images", make_items(10), max_in_flight=2))
    assert [result.item_id for result in results] == ["0", "1", "2"]


async def test_a_stream_that_ends_too_early_raises(
    service: ScriptedService, driver: Driver
) -> None:
    def answer_one(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        yield added(next(requests))

    service.answer("AddImages", answer_one)
    with pytest.raises(UnavailableError, match="ended the stream before"):
        await driver.collect("add_images", make_items(3))


async def test_a_result_that_does_not_come_is_not_waited_for_for_ever(
    service: ScriptedService, driver: Driver
) -> None:
    def fall_silent(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield added(next(requests))
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(30)

    service.answer("AddImages", fall_silent)
    results: list[Any] = []
    with pytest.raises(DeadlineExceededError, match="no result for 1 seconds"):
        await collect_into(results, driver.iterate("add_images", make_items(3), timeout_s=1))
    assert [result.item_id for result in results] == ["0"]


def test_nothing_answers(unused_tcp_port: int) -> None:
    with (
        SearchClient(f"localhost:{unused_tcp_port}") as client,
        pytest.raises(UnavailableError, match="nothing answers"),
    ):
        list(client.add_images(make_items(3)))


async def test_items_may_come_asynchronously(service: ScriptedService) -> None:
    async def items() -> AsyncIterator[AddItem]:
        for item in make_items(20):
            yield item

    service.answer("AddImages", add_all_but_every_tenth)
    async with AsyncSearchClient(service.target) as client:
        results = [result async for result in client.add_images(items(), max_in_flight=3)]
    assert len(results) == 20


async def test_at_least_one_item_must_be_in_flight(driver: Driver) -> None:
    with pytest.raises(ValueError, match="max_in_flight"):
        await driver.collect("add_images", make_items(3), max_in_flight=0)
