"""The connection of a client, and how calls are made over it."""

from __future__ import annotations

import time
from os import PathLike
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from clipsearch._channel import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_S,
    call_metadata,
    channel_credentials,
    open_channel,
)
from clipsearch._errors import error_from_rpc, no_result_in_time, stream_ended_early
from clipsearch._retry import RetryBudget, effective_timeout_s
from clipsearch._tracing import traced
from clipsearch._watchdog import Watchdog
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Connection:
    """A part of SearchClient."""

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
        """Connects to ``host:port`` at the first call.

        ``ca_file`` (PEM) names the root certificates to trust instead of the system's,
        ``client_cert_file`` and ``client_key_file`` the certificate (chain) and key by which a
        server with mutual TLS knows this client; each of them implies ``tls``. ``api_key`` goes
        with every call. Without TLS it is sent within this machine only, unless
        ``send_key_unencrypted`` says that the network in between may read it.

        Raises OSError if a file cannot be read, and ValueError if the key would be sent where it
        may not, or is none.
        """
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
        self._channel = open_channel(target, credentials)
        self._stub = ImageSearchServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the calls that are under way."""
        self._channel.close()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> tuple[_Response, grpc.Call]:
        budget = RetryBudget(effective_timeout_s(timeout_s, self._timeout_s))
        with traced(request.DESCRIPTOR.name.removesuffix("Request")) as metadata:
            while True:
                try:
                    return method.with_call(
                        request, timeout=budget.remaining_s, metadata=(*self._metadata, *metadata)
                    )
                except grpc.RpcError as rpc_error:
                    error = error_from_rpc(rpc_error, self._target)
                    pause_s = budget.take_pause_s(error)
                    if pause_s is None:
                        raise error from rpc_error
                time.sleep(pause_s)

    def _result(self, call: grpc._CallIterator[_Response], watchdog: Watchdog) -> _Response:
        """Returns the stream's next response, where there must be one."""
        response = self._next(call, watchdog)
        if response is None:
            raise stream_ended_early(self._target)
        return response

    def _next(self, call: grpc._CallIterator[_Response], watchdog: Watchdog) -> _Response | None:
        """Returns the stream's next response; None if the server has ended it."""
        watchdog.arm()
        try:
            return next(call, None)
        except grpc.RpcError as rpc_error:
            if watchdog.expired:
                raise no_result_in_time(self._target, watchdog.wait_s) from rpc_error
            raise error_from_rpc(rpc_error, self._target) from rpc_error
        finally:
            watchdog.disarm()
