"""The connection of a client, and how calls are made over it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

import grpc
from google.protobuf.message import Message

from clipsearch._channel import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_S,
    call_metadata,
    channel_credentials,
    open_aio_channel,
)
from clipsearch._errors import (
    SearchError,
    error_from_rpc,
    no_result_in_time,
    stream_ended_early,
)
from clipsearch._retry import RetryBudget, effective_timeout_s
from clipsearch._tracing import traced
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_T = TypeVar("_T")

_StreamCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[_Request, _Response] | grpc.aio.StreamStreamCall[_Request, _Response]"
)

# What grpc.aio puts in the place of the status that the server gave, if it ended a stream while a
# message was being sent (grpc/aio/_call.py, _write).
_FAILED_WRITE = "Internal error from Core"


_AnyStreamCall: TypeAlias = "_StreamCall[Any, Any]"


class AioConnection:
    """A part of AsyncSearchClient."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: bool = False,
        ca_file: str | PathLike[str] | None = None,
        api_key: str | None = None,
        client_cert_file: str | PathLike[str] | None = None,
        client_key_file: str | PathLike[str] | None = None,
        send_key_unencrypted: bool = False,
    ) -> None:
        """Connects to ``host:port`` at the first call; as ``SearchClient``."""
        self._target = target
        self._timeout_s = timeout_s
        credentials = channel_credentials(
            tls=tls,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
        )
        self._metadata = call_metadata(
            api_key,
            target,
            is_encrypted=credentials is not None,
            send_key_unencrypted=send_key_unencrypted,
        )
        self._channel = open_aio_channel(target, credentials)
        self._stub = ImageSearchServiceStub(self._channel)
        self._statuses: WeakKeyDictionary[_AnyStreamCall, grpc.aio.AioRpcError] = (
            WeakKeyDictionary()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and ends the calls that are under way."""
        await self._channel.close()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> tuple[_Response, grpc.aio.UnaryUnaryCall[_Request, _Response]]:
        budget = RetryBudget(effective_timeout_s(timeout_s, self._timeout_s))
        with traced(request.DESCRIPTOR.name.removesuffix("Request")) as metadata:
            while True:
                call = method(
                    request, timeout=budget.remaining_s, metadata=(*self._metadata, *metadata)
                )
                try:
                    return await call, call
                except asyncio.CancelledError as cancelled:
                    raise _closed_or(cancelled) from None
                except grpc.RpcError as rpc_error:
                    error = error_from_rpc(rpc_error, self._target)
                    pause_s = budget.take_pause_s(error)
                    if pause_s is None:
                        raise error from rpc_error
                await asyncio.sleep(pause_s)

    async def _result(self, call: _StreamCall[_Request, _Response], wait_s: float) -> _Response:
        """Returns the stream's next response, where there must be one."""
        response = await self._next(call, wait_s)
        if response is None:
            raise stream_ended_early(self._target)
        return response

    async def _next(
        self, call: _StreamCall[_Request, _Response], wait_s: float
    ) -> _Response | None:
        """Returns the stream's next response, None if the server has ended it; a stream has no
        timeout of its own for that."""
        try:
            async with asyncio.timeout(wait_s):
                response = await call.read()
        except TimeoutError as error:
            raise no_result_in_time(self._target, wait_s) from error
        except asyncio.CancelledError as cancelled:
            raise _closed_or(cancelled) from None
        except grpc.RpcError as rpc_error:
            if rpc_error.details() == _FAILED_WRITE:
                raise self._why_it_ended(call) from rpc_error
            raise error_from_rpc(rpc_error, self._target) from rpc_error
        return None if response is grpc.aio.EOF else cast("_Response", response)

    def _remembering(self, call: _AnyStreamCall) -> _AnyStreamCall:
        """Has the status that the server gives a stream of requests remembered, before grpc.aio
        forgets it."""
        call.add_done_callback(self._remember)
        return call

    def _remember(self, call: _AnyStreamCall) -> None:
        self._statuses[call] = grpc.aio.AioRpcError(
            _at_once(call.code()),
            grpc.aio.Metadata(),
            _at_once(call.trailing_metadata()),
            _at_once(call.details()),
        )

    def _why_it_ended(self, call: _AnyStreamCall) -> SearchError:
        """Returns the exception for a stream that the server ended under a message."""
        status = self._statuses.get(call)
        if (
            status is None
            or status.details() == _FAILED_WRITE  # it came after that
            or status.code() is grpc.StatusCode.OK
        ):
            return stream_ended_early(self._target)
        return error_from_rpc(status, self._target)


def _at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Returns what a coroutine does that has nothing to wait for: a call's status, once given."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("the status of a call that is done was not there")


def _closed_or(cancelled: asyncio.CancelledError) -> SearchError | asyncio.CancelledError:
    """grpc.aio tells with a CancelledError too that the client was closed under a call; a task that
    nobody cancelled gets what its other calls get."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return cancelled
    return SearchError(grpc.StatusCode.CANCELLED, "the client was closed")
