"""A real gRPC server that does what a test wrote down, and the clients that call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from clipsearch import AsyncSearchClient, SearchClient
from clipsearch.v1.image_search_pb2_grpc import add_ImageSearchServiceServicer_to_server
from unit.client.scripted_service import Driver, ScriptedService


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    scripted = ScriptedService()
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(
            threads,
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        add_ImageSearchServiceServicer_to_server(scripted, server)
        scripted.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield scripted
        server.stop(grace=None).wait()


@pytest.fixture(params=["sync", "aio"])
async def driver(request: pytest.FixtureRequest, service: ScriptedService) -> AsyncIterator[Driver]:
    if request.param == "sync":
        with SearchClient(service.target, timeout_s=10) as client:
            yield Driver(client)
    else:
        async with AsyncSearchClient(service.target, timeout_s=10) as aio_client:
            yield Driver(aio_client)
