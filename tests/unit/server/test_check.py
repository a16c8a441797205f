"""The health check of a container: 0 if the server serves, 1 and a line if not."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from clipsearch_server.check import main
from clipsearch_server.errors import IndexUnavailable
from clipsearch_server.rpc.health import HealthReporter


async def test_it_tells_what_the_server_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # leads nowhere
    gone: list[Exception] = []

    async def index() -> None:
        if gone:
            raise gone[0]

    health = HealthReporter({"index": index})
    server = grpc.aio.server()
    add_HealthServicer_to_server(health, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        await health.check()
        assert await asyncio.to_thread(main, [address]) == 0
        assert capsys.readouterr().err == ""
        gone.append(IndexUnavailable("gone"))
        await health.check()
        assert await asyncio.to_thread(main, [address]) == 1
        assert capsys.readouterr().err.startswith(f"{address}: NOT_SERVING")
    finally:
        await server.stop(0)
    assert await asyncio.to_thread(main, [address]) == 1
    assert capsys.readouterr().err == f"{address}: UNAVAILABLE\n"
