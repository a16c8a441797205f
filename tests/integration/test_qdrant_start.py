"""The real server on a Qdrant that is not there yet."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from clipsearch import AsyncSearchClient
from clipsearch_server.errors import StartupError
from clipsearch_server.testing import ServerProcess
from fake_qdrant import FakeQdrant


def options(qdrant: FakeQdrant) -> tuple[str, ...]:
    return "--index-backend", "qdrant", "--qdrant-url", qdrant.url


async def test_the_server_starts_without_qdrant_and_serves_when_it_comes() -> None:
    qdrant = FakeQdrant()
    await qdrant.start()
    await qdrant.stop()  # its port is known now
    process = ServerProcess(*options(qdrant))
    server = await asyncio.to_thread(process.__enter__)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest(service="index"))
            assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
            await qdrant.start()
            async with asyncio.timeout(30):
                assert (await watch.read()).status == HealthCheckResponse.SERVING
            watch.cancel()
        async with AsyncSearchClient(server.address) as client:
            assert (await client.query_text("a cat")).hits == ()
    finally:
        await asyncio.to_thread(process.stop)
        await qdrant.stop()
    assert "Traceback" not in process.log


async def test_row_38_another_models_collection_ends_the_start() -> None:
    qdrant = FakeQdrant()
    await qdrant.start()
    try:
        process = ServerProcess(*options(qdrant))
        await asyncio.to_thread(process.__enter__)
        await asyncio.to_thread(process.stop)
        qdrant.collections["images-1"].config.metadata.clear()
        with pytest.raises(StartupError, match="does not say which model filled it"):
            await asyncio.to_thread(ServerProcess(*options(qdrant)).__enter__)
    finally:
        await qdrant.stop()
