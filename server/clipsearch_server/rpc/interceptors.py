"""What happens around every call of the service, once: from who calls to a line in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from clipsearch_server.callers import ANYBODY, Caller
from clipsearch_server.deadline import call_ends_in
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.call_record import SERVICE_NAME, CallRecord, Context
from clipsearch_server.rpc.methods import METHODS
from clipsearch_server.rpc.status import to_status

__all__ = ["SERVICE_NAME", "Authenticate", "CallInterceptor", "Context", "let_anybody_in"]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


Authenticate: TypeAlias = Callable[[Context], Caller]


def let_anybody_in(context: Context) -> Caller:
    """Authenticates whoever calls a server that asks for no keys."""
    return ANYBODY


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of ImageSearchService; health and reflection pass untouched.

    In the order of the flow: who calls, whether they may, whether there is room, then the method
    within its deadline; last what became of it: its status, and a line in the log. A unary call
    that brings no deadline gets ``default_deadline_s``; a stream may stay as long as it likes.

    gRPC reads the message of a unary call before its handler is called, and that of a stream when
    the handler asks for it. So every call is taken as a stream: who is turned away cost no memory.
    """

    def __init__(
        self, *, authenticate: Authenticate, admission: Admission, default_deadline_s: float
    ) -> None:
        self._authenticate = authenticate
        self._admission = admission
        self._default_deadline_s = default_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service != SERVICE_NAME:
            return handler
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler.stream_stream),
                _or_error(handler.request_deserializer),
                handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._response_stream(method, handler.unary_stream),
                _or_error(handler.request_deserializer),
                handler.response_serializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            _or_error(handler.request_deserializer),
            handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            async with self._guard(method, context):
                remaining_s = context.time_remaining()
                if remaining_s is None:
                    remaining_s = self._default_deadline_s
                async with asyncio.timeout(remaining_s):
                    with call_ends_in(remaining_s):
                        return await behaviour(await _only(requests), context)

        return call

    def _response_stream(self, method: str, behaviour: Any) -> Any:
        async def responses(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(await _only(requests), context)) as responses:
                async for response in responses:
                    yield response

        return self._stream(method, responses)

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            # Closed with the call, and not some time after: it may hold on to a collection.
            async with (
                self._guard(method, context),
                aclosing(behaviour(requests, context)) as responses,
            ):
                async for response in responses:
                    yield response

        return call

    @asynccontextmanager
    async def _guard(self, method: str, context: Context) -> AsyncIterator[None]:
        """Lets a call in, turns what it raises into its status, and records it."""
        record = CallRecord(method, context)
        answer = None
        try:
            record.caller = self._authenticate(context)
            record.caller.require(METHODS[method].scope)
            with self._admission.admit(METHODS[method].work, record.caller), record.admitted():
                yield
        except (asyncio.CancelledError, GeneratorExit):
            record.cancelled()
            raise
        except Exception as error:  # every error has a status; see `to_status`
            status = to_status(error)
            record.failed(status)
            answer = rpc_status.to_status(status)
        finally:
            record.end()
        if answer is not None:
            # Given with the error, since these take the place of those that were set.
            trailing = (*answer.trailing_metadata, *record.trailing_metadata)
            await context.abort(answer.code, answer.details, trailing)


async def _only(requests: AsyncIterator[Any]) -> Any:
    """Reads the one message of a call that brings one. Raises InvalidRequest if it is none."""
    async for request in requests:
        if isinstance(request, InvalidRequest):
            raise request
        return request
    raise InvalidRequest("request", "is missing")


def _or_error(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Has what cannot be parsed reach the handler as the error to answer with: gRPC would end the
    call, for a stream with every item in it, and say no reason."""

    assert deserialize is not None  # generated handlers have one

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return InvalidRequest("request", "is not a message of this method's type")

    return parse
