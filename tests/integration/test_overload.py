"""A real server with more calls than it takes on, and with callers who do not wait or do not go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.testing import ServerProcess
from samples import png
from scripted_triton import ScriptedTriton, serving, write_model_folder

# Each channel its own connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def server(folder: Path, *options: str) -> AsyncIterator[ServerProcess]:
    process = ServerProcess("--data-dir", str(folder), *options)
    await asyncio.to_thread(process.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.stop)


@asynccontextmanager
async def server_on(
    triton: ScriptedTriton, folder: Path, *options: str
) -> AsyncIterator[ImageSearchServiceStub]:
    """A server that serves, and whose encoder does from then on what the test says."""
    model = await asyncio.to_thread(write_model_folder, folder / "model")
    async with (
        serving(triton) as address,
        server(
            *(folder / "data", "--encoder-backend", "triton", "--triton-address", address),
            *("--model-dir", str(model), *options),
        ) as process,
        grpc.aio.insecure_channel(process.address) as channel,
    ):
        async for answer in HealthStub(channel).Watch(HealthCheckRequest(), timeout=30):
            if answer.status == HealthCheckResponse.SERVING:
                break
        triton.spare_what_has_come()
        yield ImageSearchServiceStub(channel)


def details(error: grpc.aio.AioRpcError) -> tuple[str, int, int]:
    """The reason, and the milliseconds until the call may come again: of RetryInfo, and of gRPC's
    own."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers[GRPC_DETAILS_METADATA_KEY])
    assert status.code == error.code().value[0]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    pushback = trailers.get("grpc-retry-pushback-ms", "0")
    return info.reason, retry.retry_delay.ToMilliseconds(), int(pushback)


async def test_row_30_every_call_of_an_overload_is_answered_and_health_all_along(
    tmp_path: Path,
) -> None:
    """bench/overload.py does so with 10,000, and measures."""
    codes: Counter[grpc.StatusCode] = Counter()
    pauses_ms: list[int] = []

    async def ask(stub: ImageSearchServiceStub, number: int) -> None:
        try:
            await stub.QueryText(pb.QueryTextRequest(text=f"picture {number}"), timeout=30)
        except grpc.aio.AioRpcError as error:
            codes[error.code()] += 1
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                reason, retry_ms, pushback_ms = details(error)
                assert reason == "SERVER_OVERLOADED"
                assert retry_ms == pushback_ms > 0
                pauses_ms.append(retry_ms)
        else:
            codes[grpc.StatusCode.OK] += 1

    async with server(tmp_path, "--admission-max-queries", "8") as process:
        channels = [grpc.aio.insecure_channel(process.address, OPTIONS) for _ in range(9)]
        *others, for_health = channels
        health = HealthStub(for_health)
        stubs = [ImageSearchServiceStub(channel) for channel in others]
        calls = [asyncio.create_task(ask(stubs[number % 8], number)) for number in range(1000)]
        checks = 0
        while not all(call.done() for call in calls):
            answer = await health.Check(HealthCheckRequest(), timeout=10)
            assert answer.status == HealthCheckResponse.SERVING
            checks += 1
            await asyncio.sleep(0.01)
        await asyncio.gather(*calls)
        await asyncio.gather(*(channel.close() for channel in channels))
    assert checks > 0
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.keys() == allowed, codes
    assert codes.total() == 1000
    # Those who were refused are not all told to come back at one time.
    assert len(set(pauses_ms)) > len(pauses_ms) / 20
    assert "refused calls=" in process.log
    assert "code=RESOURCE_EXHAUSTED" not in process.log  # one by one


async def test_row_31_a_call_without_a_deadline_ends_at_the_servers(tmp_path: Path) -> None:
    triton = ScriptedTriton()
    async with server_on(triton, tmp_path, "--default-deadline-s", "0.5") as stub:
        triton.infer = triton.never
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.QueryText(pb.QueryTextRequest(text="a cat"))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details(caught.value)[0] == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(triton.cancelled.wait(), 10)
    assert max(triton.deadlines_s) <= 0.5


async def test_row_32_a_client_that_cancels_stops_the_work_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    triton = ScriptedTriton()
    async with server_on(triton, tmp_path) as stub:
        triton.infer = triton.never
        call = stub.AddImage(pb.AddImageRequest(content=png("red")))
        await triton.arrived.acquire()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(triton.cancelled.wait(), 10)
        # What is added after it, is; and nothing else.
        triton.infer = triton.first_axis
        added = await stub.AddImage(pb.AddImageRequest(content=png("blue")))
        listed = await stub.ListImages(pb.ListImagesRequest())
        assert [image.id for image in listed.images] == [added.image.id]
    assert len(triton.requests) == 2


async def test_row_36_a_full_queue_of_triton_is_an_overload_to_our_callers(tmp_path: Path) -> None:
    triton = ScriptedTriton()
    async with server_on(triton, tmp_path) as stub:
        triton.infer = triton.failing(
            grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.QueryText(pb.QueryTextRequest(text="a cat"))
        assert caught.value.code().value[0] == code_pb2.RESOURCE_EXHAUSTED
        reason, retry_ms, pushback_ms = details(caught.value)
        assert reason == "SERVER_OVERLOADED"
        assert retry_ms == pushback_ms > 0
