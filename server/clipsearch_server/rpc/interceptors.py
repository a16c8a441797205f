"""What happens around every call of the service, once: admission, deadline, errors, a log line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from time import perf_counter
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc_status import rpc_status

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.deadline import call_ends_in
from clipsearch_server.errors import InvalidRequest, Overloaded
from clipsearch_server.rpc.status import reason_of, to_status

logger = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ImageSearchService"].full_name

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of ImageSearchService; health and reflection pass untouched.

    At most ``max_in_flight`` calls are served at a time, so that health checks and the calls being
    served stay fast however many come in; what comes on top gets RESOURCE_EXHAUSTED with RetryInfo.
    A unary call that brings no deadline gets ``default_deadline_s``; a stream may stay as long as
    it likes.
    """

    def __init__(self, *, max_in_flight: int, default_deadline_s: float) -> None:
        self._max_in_flight = max_in_flight
        self._default_deadline_s = default_deadline_s
        self._in_flight = 0

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
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                _or_error(handler.request_deserializer),
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            _or_error(handler.request_deserializer),
            handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            async with self._guard(method, context):
                if isinstance(request, InvalidRequest):
                    raise request
                remaining_s = context.time_remaining()
                if remaining_s is None:
                    remaining_s = self._default_deadline_s
                async with asyncio.timeout(remaining_s):
                    with call_ends_in(remaining_s):
                        return await behaviour(request, context)

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._guard(method, context):
                if isinstance(request, InvalidRequest):
                    raise request
                # Closed with the call, and not some time after: it may hold on to a collection.
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response

        return call

    @asynccontextmanager
    async def _guard(self, method: str, context: Context) -> AsyncIterator[None]:
        """Admits a call, turns what it raises into its status, and logs it."""
        start = perf_counter()
        # Asked now: gRPC frees a cancelled call under its handler, and asking that one crashes us.
        peer = context.peer()
        outcome = "code=OK"
        self._in_flight += 1
        try:
            if self._in_flight > self._max_in_flight:
                raise Overloaded("the server is busy; try again in a moment")
            yield
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "code=CANCELLED"
            raise
        except Exception as error:  # every error has a status; see `to_status`
            status = to_status(error)
            outcome = f"code={code_pb2.Code.Name(status.code)} reason={reason_of(status)}"
            await context.abort_with_status(rpc_status.to_status(status))
        finally:
            self._in_flight -= 1
            elapsed_ms = (perf_counter() - start) * 1000
            logger.info("call method=%s %s ms=%.1f peer=%s", method, outcome, elapsed_ms, peer)


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
