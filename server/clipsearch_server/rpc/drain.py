"""How calls end when the server stops.

gRPC's own stop cancels what has reached the server and was not handed to us yet, as it does what
outlasts the grace: callers get CANCELLED, or UNAVAILABLE in the middle of a stream, and cannot tell
what became of it. So the server stops in steps, the last of which finds nothing left to cancel.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from time import monotonic
from typing import Any, TypeAlias

import grpc

from clipsearch_server.errors import ServerStopping
from clipsearch_server.rpc.call_record import SERVICE_NAME
from clipsearch_server.rpc.interceptors import Handler
from clipsearch_server.rpc.options import Context

_Behaviour: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]


# What was sent before SIGTERM has come by then, even if the event loop is busy.
_ACCEPTED_S = 0.05
_ACCEPTED_UNDER_LOAD_S = 0.5
# Who was answered calls again, and is refused, within so long; calls that take long, and callers
# who go on though they are refused, are not waited for: the stop tells them to go elsewhere.
_QUIET_S = 0.05
_MAX_REFUSING_S = 1.0
# A stream with nothing under way that brings nothing for so long is one that its caller keeps open
# for later; one that sends an item when it has the answer to the last has a round trip.
_IDLE_S = 0.5


class DrainInterceptor(grpc.aio.ServerInterceptor):
    """Refuses what comes too late, and ends streams that would outlast the server.

    Once its time is over, a stream that brings items is read no further: what was read is worked
    off and answered, and then the stream ends with ServerStopping, as one that only answers does
    before its next answer. What has no answer was not begun.

    It belongs after the interceptor that turns errors into statuses.
    """

    def __init__(self) -> None:
        self._refusing = False
        self._are_over = False
        self._streams: set[_Reader] = set()  # that bring items
        self._called_at = -math.inf
        self._under_way = 0  # calls that are no streams

    async def refuse_calls(self) -> None:
        """Takes what is on its way, then refuses calls with ServerStopping; returns when hardly
        anybody is about to call any more."""
        is_under_load = not self._is_quiet()
        await asyncio.sleep(_ACCEPTED_UNDER_LOAD_S if is_under_load else _ACCEPTED_S)
        self._refusing = True
        until = monotonic() + _MAX_REFUSING_S
        while monotonic() < until and not self._is_quiet():  # noqa: ASYNC110 - it is a time
            await asyncio.sleep(_QUIET_S)

    def _is_quiet(self) -> bool:
        return not self._under_way and monotonic() - self._called_at >= _QUIET_S

    async def end_idle_streams(self) -> None:
        """Ends streams that nobody would miss, until cancelled: those of other services, which are
        reflection's, and those that bring nothing."""
        while True:
            for stream in self._streams:
                if not stream.is_ours or stream.is_idle():
                    stream.end()
            await asyncio.sleep(_QUIET_S)

    def end_streams(self) -> None:
        """Ends all streams."""
        self._are_over = True
        for stream in self._streams:
            stream.end()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        is_ours = handler_call_details.method.startswith(f"/{SERVICE_NAME}/")
        if is_ours and self._refusing:
            self._called_at = monotonic()
            return _refusal(handler)
        if not handler.response_streaming:
            return self._counted(handler) if is_ours else handler
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

    def _counted(self, handler: Handler) -> Handler:
        behaviour: Any = handler.unary_unary

        async def call(request: Any, context: Context) -> Any:
            self._called_at = monotonic()
            self._under_way += 1
            try:
                return await behaviour(request, context)
            finally:
                self._called_at = monotonic()  # its caller may have another
                self._under_way -= 1

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )

    def _both(self, behaviour: Any, *, is_ours: bool) -> _Behaviour:
        async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            stream = _Reader(requests, is_ours=is_ours)
            if self._are_over:
                stream.end()
            self._streams.add(stream)
            try:
                async with (
                    aclosing(stream.items()) as items,
                    aclosing(behaviour(items, context)) as responses,
                ):
                    async for response in responses:
                        yield response
                        stream.note_answer()
            finally:
                self._streams.remove(stream)
            if stream.is_cut_off and is_ours:
                raise ServerStopping

        return call

    def _answers(self, behaviour: Any) -> _Behaviour:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    if self._are_over:
                        raise ServerStopping
                    yield response

        return call


def _refusal(handler: Handler) -> Handler:
    """A handler of the same kind, as the interceptor before takes it, that refuses."""

    async def refuse(request: Any, context: Context) -> Any:
        raise ServerStopping

    async def refuse_stream(request: Any, context: Context) -> AsyncIterator[Any]:
        raise ServerStopping
        yield

    make: Any = grpc.unary_unary_rpc_method_handler
    if handler.response_streaming:
        make = grpc.unary_stream_rpc_method_handler
        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler
    behaviour = refuse_stream if handler.response_streaming else refuse
    refusal: Handler = make(behaviour, handler.request_deserializer, handler.response_serializer)
    return refusal


class _Reader:
    """Reads a stream, each item of which gets an answer, until it ends or is ended."""

    def __init__(self, requests: AsyncIterator[Any], *, is_ours: bool) -> None:
        self._requests = requests
        self._is_ended = False
        self._reading: asyncio.Timeout | None = None  # until something comes
        self._unanswered = 0
        self._idle_since = monotonic()
        self.is_ours = is_ours
        self.is_cut_off = False

    def is_idle(self) -> bool:
        """Returns whether all that it brought is answered, and that for a while."""
        return not self._unanswered and monotonic() - self._idle_since >= _IDLE_S

    def note_answer(self) -> None:
        self._unanswered -= 1
        self._idle_since = monotonic()

    def end(self) -> None:
        """Has it be read no further."""
        if not self._is_ended and self._reading is not None:
            self._reading.reschedule(-math.inf)
        self._is_ended = True

    async def items(self) -> AsyncGenerator[Any]:
        while not self._is_ended:
            try:
                # Nothing but `end` sets a time. A task of its own would cost as much as the item.
                async with asyncio.timeout(None) as self._reading:
                    item = await anext(self._requests, _END)
            except TimeoutError:
                break
            finally:
                self._reading = None
            if item is _END:
                return
            self._unanswered += 1
            yield item
        self.is_cut_off = True


_END = object()
