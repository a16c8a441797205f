"""Streams when the server stops: what was read is answered, then they end and say why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from unittest.mock import create_autospec

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import (
    ImageSearchServiceStub,
    add_ImageSearchServiceServicer_to_server,
)
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.drain import DrainInterceptor
from clipsearch_server.rpc.interceptors import CallInterceptor, let_anybody_in
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.servicer import ImageSearchServicer
from fakes import FakeEncoder
from samples import png


@asynccontextmanager
async def serving(
    catalog: Catalog, memory: Budget, draining: DrainInterceptor, *, stream_idle_s: float = 60
) -> AsyncIterator[tuple[ImageSearchServiceStub, grpc.aio.Server]]:
    guard = CallInterceptor(
        authenticate=let_anybody_in,
        admission=Admission(dict.fromkeys(Work, 8)),
        default_deadline_s=60,
        stream_idle_s=stream_idle_s,
    )
    server = grpc.aio.server(interceptors=[guard, draining])
    servicer = ImageSearchServicer(catalog, service_options(memory))
    add_ImageSearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ImageSearchServiceStub(channel), server
    finally:
        await server.stop(0)


def service_options(memory: Budget) -> ServiceOptions:
    return ServiceOptions(
        default_limit=2,
        near_duplicate_similarity=0.97,
        max_in_flight_per_stream=4,
        memory=memory,
        info=pb.GetServerInfoResponse(),
    )


def item(number: int) -> pb.AddImagesRequest:
    content = png(("red", "lime", "blue")[number % 3], size=(10 + number, 10))
    return pb.AddImagesRequest(
        item_id=str(number), request=pb.AddImageRequest(content=content, uri=str(number))
    )


def reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)


async def test_row_44_a_stream_is_answered_as_far_as_it_was_read_and_then_ends(
    catalog: Catalog, memory: Budget, encoder: FakeEncoder
) -> None:
    draining = DrainInterceptor()
    async with serving(catalog, memory, draining) as (service, server):
        encoder.gate.clear()
        stream = service.AddImages()
        for number in range(3):
            await stream.write(item(number))
        await encoder.until_waiting(3)
        draining.end_streams()
        stopping = asyncio.create_task(server.stop(60))
        await asyncio.sleep(0)
        encoder.gate.set()
        answered = {(await stream.read()).item_id for _ in range(3)}
        assert answered == {"0", "1", "2"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(caught.value) == "SERVER_STOPPING"
        await stopping


async def test_row_44_streams_that_bring_nothing_end_at_once_and_others_do_not(
    catalog: Catalog, memory: Budget, encoder: FakeEncoder
) -> None:
    draining = DrainInterceptor()
    async with serving(catalog, memory, draining) as (service, server):
        encoder.gate.clear()
        idle, busy = service.AddImages(), service.AddImages()
        await idle.write(item(0))
        await busy.write(item(1))
        await encoder.until_waiting(2)
        encoder.gate.set()
        assert (await idle.read()).item_id == "0"
        assert (await busy.read()).item_id == "1"
        encoder.gate.clear()
        await busy.write(item(2))
        await encoder.until_waiting(1)
        ending = asyncio.create_task(draining.end_idle_streams())
        stopping = asyncio.create_task(server.stop(60))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await idle.read()
        assert reason(caught.value) == "SERVER_STOPPING"
        encoder.gate.set()
        assert (await busy.read()).item_id == "2"
        await busy.write(item(3))
        await busy.done_writing()
        assert (await busy.read()).item_id == "3"
        assert await busy.read() is grpc.aio.EOF
        assert await busy.code() is grpc.StatusCode.OK
        await stopping
        ending.cancel()


@pytest.mark.parametrize("method", ["AddImages", "ImportImages"])
async def test_row_44_a_stream_that_waits_for_its_first_message_is_told_of_the_end(
    catalog: Catalog, memory: Budget, method: str
) -> None:
    draining = DrainInterceptor()
    async with serving(catalog, memory, draining) as (service, _):
        stream = getattr(service, method)()
        ending = asyncio.create_task(draining.end_idle_streams())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(caught.value) == "SERVER_STOPPING"
        ending.cancel()


@pytest.mark.parametrize("method", ["AddImages", "ImportImages"])
async def test_a_stream_that_waits_for_its_first_message_too_long_is_told_so(
    catalog: Catalog, memory: Budget, method: str
) -> None:
    async with serving(catalog, memory, DrainInterceptor(), stream_idle_s=0.1) as (service, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(service, method)().read()
        assert reason(caught.value) == "DEADLINE_EXCEEDED"


async def test_an_add_stream_that_is_closed_reads_no_further(
    catalog: Catalog, memory: Budget
) -> None:
    is_closed = False

    async def requests() -> AsyncIterator[pb.AddImagesRequest]:
        nonlocal is_closed
        try:
            yield item(0)
            await asyncio.Event().wait()
        finally:
            is_closed = True

    servicer = ImageSearchServicer(catalog, service_options(memory))
    context = create_autospec(grpc.aio.ServicerContext)
    async with aclosing(servicer.AddImages(requests(), context)) as responses:
        assert (await anext(responses)).item_id == "0"
    assert is_closed


async def test_row_44_idle_reflection_does_not_hold_up_the_end() -> None:
    draining = DrainInterceptor()
    server = grpc.aio.server(interceptors=[draining])
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = ServerReflectionStub(channel).ServerReflectionInfo()
        await stream.write(ServerReflectionRequest(list_services=""))
        await stream.read()
        ending = asyncio.create_task(draining.end_idle_streams())
        async with asyncio.timeout(30):
            await server.stop(60)
        assert await stream.code() is grpc.StatusCode.OK
        ending.cancel()


async def test_an_export_ends_between_two_answers(catalog: Catalog, memory: Budget) -> None:
    draining = DrainInterceptor()
    draining.end_streams()
    async with serving(catalog, memory, draining) as (service, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.ExportImages(pb.ExportImagesRequest()).read()
        assert reason(caught.value) == "SERVER_STOPPING"
