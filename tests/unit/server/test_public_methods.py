"""Whoever has no key can ask for the health and the methods, and hold no more than a little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from clipsearch_server.rpc.drain import DrainInterceptor
from clipsearch_server.rpc.health import HealthReporter
from clipsearch_server.rpc.public_methods import PublicMethodsInterceptor

LONG = "x" * 5_000
SERVING = HealthCheckResponse.SERVING
LIST = ServerReflectionRequest(list_services="")


@asynccontextmanager
async def serving(**bounds: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of nothing else, whose health is good."""
    server = grpc.aio.server(interceptors=[PublicMethodsInterceptor(**bounds), DrainInterceptor()])
    health = HealthReporter({})
    await health.check()
    add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def code_of(answer: Any) -> grpc.StatusCode:
    async with asyncio.timeout(5):
        try:
            await answer
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_long_message_is_refused() -> None:
    async with serving() as channel:
        health, methods = HealthStub(channel), ServerReflectionStub(channel)
        for name, code in (("", "OK"), ("x", "NOT_FOUND"), (LONG, "RESOURCE_EXHAUSTED")):
            assert (await code_of(health.Check(HealthCheckRequest(service=name)))).name == code
        watch = health.Watch(HealthCheckRequest(service=LONG))
        assert await code_of(watch.read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        call = methods.ServerReflectionInfo()
        await call.write(LIST)
        assert (await call.read()).HasField("list_services_response")
        await call.write(ServerReflectionRequest(file_by_filename=LONG))
        assert await code_of(call.read()) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_open_streams_are_bounded_and_checks_go_on() -> None:
    async with serving(max_streams=2) as channel:
        health, methods = HealthStub(channel), ServerReflectionStub(channel)
        watch = health.Watch(HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        call = methods.ServerReflectionInfo()
        await call.write(LIST)
        await call.read()
        for more in (health.Watch(HealthCheckRequest()), methods.ServerReflectionInfo()):
            assert await code_of(more.read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await health.Check(HealthCheckRequest())).status == SERVING
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF  # its place is free
        assert (await health.Watch(HealthCheckRequest()).read()).status == SERVING


async def test_a_stream_that_says_nothing_ends() -> None:
    async with serving(stream_idle_s=0.1) as channel:
        call = ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(LIST)
        await call.read()
        assert await code_of(call.read()) is grpc.StatusCode.DEADLINE_EXCEEDED
