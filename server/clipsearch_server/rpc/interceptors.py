"""What happens around every call of the service, once: from who calls to a line in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from clipsearch_server.callers import ANYBODY, Caller
from clipsearch_server.deadline import call_ends_in
from clipsearch_server.errors import InvalidRequest, Overloaded
from clipsearch_server.priority import in_background
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.call_record import SERVICE_NAME, CallRecord
from clipsearch_server.rpc.idle import ends_if_idle, noting
from clipsearch_server.rpc.methods import METHODS, Work
from clipsearch_server.rpc.options import Context
from clipsearch_server.rpc.refusals import Refusals
from clipsearch_server.rpc.status import to_status

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS = "grpc-status-details-bin"  # where gRPC's libraries look for a google.rpc.Status
# What gRPC's own retries go by (gRFC A6), for clients that know no RetryInfo.
_PUSHBACK = "grpc-retry-pushback-ms"

Authenticate: TypeAlias = Callable[[Context], Caller]


def let_anybody_in(context: Context) -> Caller:
    """Authenticates whoever calls a server that asks for no keys."""
    return ANYBODY


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of ImageSearchService; health and reflection pass untouched
    (`rpc/public_methods` bounds them).

    In the order of the flow: who calls, whether they may, whether there is room, then the method
    within its deadline; last what became of it: its status, and a line in the log. A unary call
    that brings no deadline gets ``default_deadline_s``; a stream may stay for as long as a message
    comes or goes every ``stream_idle_s``. What is no query works in the background.

    gRPC reads the message of a unary call before its handler is called, and that of a stream when
    the handler asks for it. So every call is taken as a stream: who is turned away cost no memory.
    """

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        admission: Admission,
        default_deadline_s: float,
        stream_idle_s: float = 300.0,
    ) -> None:
        self._authenticate = authenticate
        self._admission = admission
        self._default_deadline_s = default_deadline_s
        self._stream_idle_s = stream_idle_s
        self._refusals = Refusals()

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
            with (
                _Outcome(method, context, self._refusals) as outcome,
                self._admitted(outcome.record, context),
            ):
                loop = asyncio.get_running_loop()
                remaining_s = context.time_remaining()
                if remaining_s is None:
                    remaining_s = self._default_deadline_s
                ends_at = loop.time() + remaining_s
                # Who never sends it would hold a place for as long as its deadline says.
                async with asyncio.timeout(
                    min(remaining_s, self._default_deadline_s)
                ) as time_limit:
                    with call_ends_in(remaining_s):
                        # Under no name: gRPC keeps this frame with a failure.
                        received = [await _only(requests)]
                        if remaining_s > self._default_deadline_s:
                            time_limit.reschedule(ends_at)
                        return await behaviour(received.pop(), context)
            await outcome.tell(context)

        return call

    def _response_stream(self, method: str, behaviour: Any) -> Any:
        async def responses(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(await _only(requests), context)) as responses:
                async for response in responses:
                    yield response

        return self._stream(method, responses)

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> None:
            with (
                _Outcome(method, context, self._refusals) as outcome,
                self._admitted(outcome.record, context),
            ):
                # Closed with the call, and not some time after: it may hold on to a collection.
                async with (
                    _closing(_iterator(requests)) as messages,
                    ends_if_idle(self._stream_idle_s) as note_message,
                    aclosing(behaviour(noting(messages, note_message), context)) as responses,
                ):
                    async for response in responses:
                        await context.write(response)
                        note_message()
            await outcome.tell(context)

        return call

    @contextmanager
    def _admitted(self, record: CallRecord, context: Context) -> Iterator[None]:
        """Lets a call in, or raises why not."""
        work = METHODS[record.method].work
        record.caller = self._authenticate(context)
        record.caller.require(METHODS[record.method].scope)
        with (
            self._admission.admit(work, record.caller),
            record.admitted(),
            in_background(work is not Work.QUERY),
        ):
            yield


class _Outcome:
    """What became of a call: its record, and, if what the block does fails, what to answer.

    That is told when the error is gone. gRPC keeps what ``abort`` raises with the call, and were
    the error still being handled, they would keep each other and the call's message until Python
    next collects its garbage.
    """

    __slots__ = ("_answer", "_refusals", "record")

    def __init__(self, method: str, context: Context, refusals: Refusals) -> None:
        self.record = CallRecord(method, context)
        self._refusals = refusals
        # A code, a message and trailers.
        self._answer: tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                self.record.cancelled()
            elif isinstance(error, Exception):
                self._fail(error)
        finally:
            self.record.end()
        return self._answer is not None

    async def tell(self, context: Context) -> None:
        """Ends the call, if it failed."""
        if self._answer is not None:
            await context.abort(*self._answer)

    def _fail(self, error: Exception) -> None:
        status = to_status(error)  # every error has one
        trailers: list[tuple[str, str | bytes]] = [(_DETAILS, status.SerializeToString())]
        if isinstance(error, Overloaded):
            self.record.failed(status, line=False)
            self._refusals.note(self.record.method, error.reason, self.record.caller)
            trailers.append((_PUSHBACK, str(round(error.retry_after_s * 1000))))
        else:
            self.record.failed(status)
        # Given with the error, since these take the place of those that were set.
        trailers += self.record.trailing_metadata
        self._answer = (_CODES[status.code], status.message, tuple(trailers))


async def _only(requests: AsyncIterator[Any]) -> Any:
    """Reads the one message of a call that brings one. Raises InvalidRequest if it is none.

    One that is too large does not come either; of that gRPC itself has told the client, and this is
    for the log alone.
    """
    # Who is not waited for any more is not cancelled either, and ends with the call: gRPC never
    # frees a message that comes for a reader who was.
    reading = asyncio.ensure_future(_first(requests))
    reading.add_done_callback(lambda it: it.cancelled() or it.exception())
    request = await asyncio.shield(reading)
    if isinstance(request, InvalidRequest):
        raise request
    if request is not None:
        return request
    raise InvalidRequest(
        "request", "is missing, or larger than this server takes", reason="REQUEST_MISSING"
    )


async def _first(requests: AsyncIterator[Any]) -> Any:
    """Returns the first message, or None. Left open, gRPC's reader and the call would keep each
    other, and the message, until Python next collects its garbage."""
    async with aclosing(_iterator(requests)) as messages:
        async for message in messages:
            return message
    return None


@asynccontextmanager
async def _closing(messages: AsyncGenerator[Any, None]) -> AsyncIterator[AsyncGenerator[Any, None]]:
    """As ``aclosing``, but leaves alone what is being read from: by ``_only``, for a call that is
    over before its message came. That reading ends with the call."""
    try:
        yield messages
    finally:
        with suppress(RuntimeError):
            await messages.aclose()


def _iterator(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """What gRPC reads requests with."""
    return cast("AsyncGenerator[Any, None]", aiter(requests))


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
