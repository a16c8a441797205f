"""How streams end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from clipsearch_server.errors import ServerStopping
from clipsearch_server.rpc.interceptors import SERVICE_NAME, Context, Handler

_Behaviour: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]


class StreamEnder(grpc.aio.ServerInterceptor):
    """Ends streams that would outlast the server in a way that leaves nobody to guess.

    Once ``end`` is called, a stream that brings items is read no further: what was read is worked
    off and answered, and then the stream ends with ServerStopping, as one that only answers does
    before its next answer. What has no answer was not begun.

    It belongs after the interceptor that turns errors into statuses.
    """

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def end(self) -> None:
        self._ended.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        is_ours = handler_call_details.method.startswith(f"/{SERVICE_NAME}/")
        if handler.request_streaming:  # reflection's streams too, which may be idle for long
            return grpc.stream_stream_rpc_method_handler(
                self._both(handler.stream_stream, is_ours=is_ours),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if not is_ours:
            return handler  # Watch: `rpc/health` ends it
        return grpc.unary_stream_rpc_method_handler(
            self._answers(handler.unary_stream),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _both(self, behaviour: Any, *, is_ours: bool) -> _Behaviour:
        async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            read = _Reader(requests, self._ended)
            async with aclosing(read.items()) as items, aclosing(behaviour(items, context)) as them:
                async for response in them:
                    yield response
            if read.is_cut_off and is_ours:
                raise ServerStopping

        return call

    def _answers(self, behaviour: Any) -> _Behaviour:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    if self._ended.is_set():
                        raise ServerStopping
                    yield response

        return call


class _Reader:
    """Reads a stream until it ends or is ended."""

    def __init__(self, requests: AsyncIterator[Any], ended: asyncio.Event) -> None:
        self._requests = requests
        self._ended = ended
        self.is_cut_off = False

    async def items(self) -> AsyncGenerator[Any]:
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            while True:
                item = asyncio.ensure_future(anext(self._requests, _END))
                try:
                    await asyncio.wait({item, ended}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    item.cancel()  # of no effect if it is there
                if not item.done() or item.cancelled():
                    self.is_cut_off = True
                    return
                if item.result() is _END:
                    return
                yield item.result()
        finally:
            ended.cancel()


_END = object()
