"""What speaks HTTP/2 to a gRPC server as no client of gRPC's would."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events

_TIMEOUT_S = 20.0


class Attacker:
    """A connection of its own."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _TIMEOUT_S)
        self._http2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._next_stream = 1
        self.events: list[h2.events.Event] = []
        self.is_closed = False

    def __enter__(self) -> Self:
        self._http2.initiate_connection()
        self._send()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, path: str, content_type: str) -> dict[str, str]:
        """Makes a call with an empty message, and returns the headers and trailers of the answer:
        empty if the server ended it without one."""
        stream = self._open(path, content_type)
        self._http2.send_data(stream, bytes(5), end_stream=True)
        self._send()
        headers: dict[str, str] = {}
        while not self.is_closed:
            seen = len(self.events)
            self._receive()
            for event in self.events[seen:]:
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        headers.update(event.headers)
                    case h2.events.StreamEnded() | h2.events.StreamReset():
                        return headers
        return headers

    def ping_until_closed(self, at_most: int) -> None:
        """Sends one ping after the other, until the server has had enough."""
        for _ in range(at_most):
            if self.is_closed:
                return
            self._http2.ping(bytes(8))
            self._send()
            self._receive()

    def open_and_reset(self, path: str, times: int) -> None:
        """Begins calls and takes them back at once, without waiting for anything."""
        for begun in range(times):
            if self.is_closed:
                return
            self._http2.reset_stream(self._open(path, "application/grpc"))
            if begun % 100 == 99:
                self._send()
                self._receive(wait=False)

    def _open(self, path: str, content_type: str) -> int:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._http2.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", content_type),
                ("te", "trailers"),
            ],
        )
        return stream

    def _send(self) -> None:
        try:
            self._socket.sendall(self._http2.data_to_send())
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def _receive(self, *, wait: bool = True) -> None:
        self._socket.settimeout(_TIMEOUT_S if wait else 0)
        try:
            data = self._socket.recv(2**20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        finally:
            self._socket.settimeout(_TIMEOUT_S)
        events = self._http2.receive_data(data) if data else []
        self.events += events
        goaway = any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
        self.is_closed = self.is_closed or not data or goaway
        if not self.is_closed:
            self._send()  # what the protocol answers by itself
