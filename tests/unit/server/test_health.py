"""grpc.health.v1: it tells what the dependencies say, and lets go of watchers when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from clipsearch_server.errors import IndexUnavailable, ModelMismatch
from clipsearch_server.rpc.health import HealthReporter

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE = "clipsearch.v1.ImageSearchService"


class Dependency:
    def __init__(self) -> None:
        self.error: Exception | None = None

    async def health(self) -> None:
        if self.error:
            raise self.error


@asynccontextmanager
async def serving(health: HealthReporter) -> AsyncIterator[tuple[HealthStub, grpc.aio.Server]]:
    server = grpc.aio.server()
    add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield HealthStub(channel), server
    finally:
        await server.stop(0)


async def statuses(stub: HealthStub, *names: str) -> list[int]:
    return [(await stub.Check(HealthCheckRequest(service=name))).status for name in names]


@pytest.mark.parametrize(
    "error", [IndexUnavailable("gone"), ModelMismatch("another's"), RuntimeError("odd")]
)
async def test_a_sick_dependency_turns_the_service_red_and_back(error: Exception) -> None:
    encoder, index = Dependency(), Dependency()
    health = HealthReporter({"encoder": encoder.health, "index": index.health})
    names = ("", SERVICE, "encoder", "index")
    async with serving(health) as (stub, _):
        assert await statuses(stub, *names) == [NOT_SERVING] * 4
        await health.check()
        assert await statuses(stub, *names) == [SERVING] * 4
        index.error = error
        await health.check()
        assert await statuses(stub, *names) == [NOT_SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        index.error = None
        await health.check()
        assert await statuses(stub, *names) == [SERVING] * 4


async def test_what_an_operator_should_read_is_logged_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = Dependency()
    health = HealthReporter({"index": index.health})
    for error in ("away", "away", "filled by another model"):
        index.error = ModelMismatch(error)
        await health.check()
    said = [record.message.partition("serving=")[2] for record in caplog.records]
    assert said == ["False away", "False filled by another model"]
    assert "Traceback" not in caplog.text


async def test_an_unknown_name_is_not_found_and_watched_as_unknown() -> None:
    async with serving(HealthReporter({})) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(HealthCheckRequest(service="x"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(HealthCheckRequest(service="x"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_watchers_are_woken_by_a_change_only(monkeypatch: pytest.MonkeyPatch) -> None:
    woken = 0

    def notify_all(condition: asyncio.Condition) -> None:
        nonlocal woken
        woken += 1

    monkeypatch.setattr(asyncio.Condition, "notify_all", notify_all)
    index = Dependency()
    health = HealthReporter({"index": index.health})
    for _ in range(3):
        await health.check()
    assert woken == 1
    index.error = IndexUnavailable("gone")
    await health.check()
    assert woken == 2
    await health.stop_serving()
    assert woken == 3


async def test_every_watcher_is_told_each_change_and_let_go_in_the_end() -> None:
    index = Dependency()
    health = HealthReporter({"index": index.health})
    await health.check()
    async with serving(health) as (stub, server):
        watches = [stub.Watch(HealthCheckRequest(service="")) for _ in range(2)]
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 2
        index.error = IndexUnavailable("gone")
        await health.check()
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 2
        index.error = None
        await health.check()
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 2
        await health.stop_serving()
        for watch in watches:
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
        await health.check()
        assert await statuses(stub, "") == [NOT_SERVING]
        await server.stop(60)  # at once: nobody is left
