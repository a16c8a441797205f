"""What health and reflection may take: they ask for no key, so that anybody can call them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from clipsearch_server.errors import DeadlineExceeded, Overloaded
from clipsearch_server.rpc.call_record import SERVICE_NAME
from clipsearch_server.rpc.idle import ends_if_idle, noting
from clipsearch_server.rpc.interceptors import Handler
from clipsearch_server.rpc.options import Context

# A name is all that there is to say.
_MAX_MESSAGE_BYTES = 4096


class PublicMethodsInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all services but ours, and bounds what their callers hold.

    ``max_streams`` may be open, those that watch the health and those that reflect together. One
    that brings messages ends after ``stream_idle_s`` without any. What is over a bound gets
    RESOURCE_EXHAUSTED. Checks of the health are not bounded in number: they end at once.
    """

    def __init__(self, *, max_streams: int = 1000, stream_idle_s: float = 300.0) -> None:
        self._max_streams = max_streams
        self._stream_idle_s = stream_idle_s
        self._streams = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(f"/{SERVICE_NAME}/"):
            return handler
        make: Any = grpc.unary_unary_rpc_method_handler
        behaviour: Any = _unary(handler.unary_unary)
        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler
            behaviour = self._stream(handler.stream_stream)
        elif handler.response_streaming:
            make = grpc.unary_stream_rpc_method_handler
            behaviour = self._watch(handler.unary_stream)
        bounded: Handler = make(
            behaviour, _if_small(handler.request_deserializer), handler.response_serializer
        )
        return bounded

    def _watch(self, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> None:
            try:
                with self._place():
                    async with aclosing(behaviour(_small(request), context)) as responses:
                        del request  # it may stay for long
                        async for response in responses:
                            await context.write(response)
            except Overloaded as error:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)

        return call

    def _stream(self, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> None:
            try:
                with self._place():
                    async with (
                        ends_if_idle(self._stream_idle_s) as note_message,
                        aclosing(
                            behaviour(noting(_all_small(requests), note_message), context)
                        ) as responses,
                    ):
                        async for response in responses:
                            await context.write(response)
            except Overloaded as error:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
            except DeadlineExceeded as error:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, error.message)

        return call

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._streams >= self._max_streams:
            raise Overloaded("too many streams of health and reflection are open")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


def _unary(behaviour: Any) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            small = _small(request)
        except Overloaded as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
        return await behaviour(small, context)

    return call


def _if_small(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Has nothing but None remain of what is too large."""
    assert parse is not None  # generated handlers have one
    return lambda data: parse(data) if len(data) <= _MAX_MESSAGE_BYTES else None


def _small(request: Any) -> Any:
    if request is None:
        raise Overloaded(f"a message of this method has {_MAX_MESSAGE_BYTES} bytes at most")
    return request


async def _all_small(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _small(request)
