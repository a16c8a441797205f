"""What speaks HTTP/2 to a gRPC server as no client of gRPC's would."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

_TIMEOUT_S = 20.0
_FRAME_HEADER_BYTES = 9


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

    def call(
        self,
        path: str,
        content_type: str = "application/grpc",
        metadata: Sequence[tuple[str, bytes]] = (),
    ) -> dict[str, str]:
        """Makes a call with an empty message, and returns the headers and trailers of the answer:
        empty if the server ended it without one."""
        stream = self._open(path, content_type, metadata)
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
        """Begins calls and takes them back at once, without waiting for anything; returns once the
        server has read it all.

        Past h2, which takes longer to keep count of a stream than a server does: nothing else can
        be done with the connection from then on.
        """
        headers = [NeverIndexedHeaderTuple(*it) for it in _headers(path, "application/grpc")]
        block = Encoder().encode(headers)  # says all, whatever came before
        received = bytearray()
        for first in range(0, times, 100):
            streams = range(2 * first + 1, 2 * min(first + 100, times), 2)
            self._write(b"".join(_begun_and_reset(stream, block) for stream in streams))
            received += self._read(wait=False)
            self._answer(received)
        last = PingFrame(opaque_data=b"the last")
        self._write(last.serialize())
        while not self.is_closed and not self._answer(received, last):
            received += self._read(wait=True)

    def _open(self, path: str, content_type: str, metadata: Sequence[tuple[str, bytes]]) -> int:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = [(name.encode(), value.encode()) for name, value in _headers(path, content_type)]
        headers += ((name.encode(), value) for name, value in metadata)
        self._http2.send_headers(stream, headers)
        return stream

    def _send(self) -> None:
        self._write(self._http2.data_to_send())

    def _write(self, data: bytes) -> None:
        if self.is_closed:
            return
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def _receive(self) -> None:
        data = self._read(wait=True)
        events = self._http2.receive_data(data) if data else []
        self.events += events
        goaway = any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
        self.is_closed = self.is_closed or goaway
        if not self.is_closed:
            self._send()  # what the protocol answers by itself

    def _read(self, *, wait: bool) -> bytes:
        self._socket.settimeout(_TIMEOUT_S if wait else 0)
        try:
            data = self._socket.recv(2**20)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            data = b""
        finally:
            self._socket.settimeout(_TIMEOUT_S)
        self.is_closed = self.is_closed or not data
        return data

    def _answer(self, received: bytearray, ping: PingFrame | None = None) -> bool:
        """Says what the protocol answers to settings and pings, takes whole frames off what was
        received, and returns whether our own ping has been answered."""
        is_answered = False
        while len(received) >= _FRAME_HEADER_BYTES:
            frame, length = Frame.parse_frame_header(memoryview(received[:_FRAME_HEADER_BYTES]))
            end = _FRAME_HEADER_BYTES + length
            if len(received) < end:
                break
            frame.parse_body(memoryview(received[_FRAME_HEADER_BYTES:end]))
            del received[:end]
            match frame:
                case SettingsFrame() if "ACK" not in frame.flags:
                    self._write(SettingsFrame(flags=["ACK"]).serialize())
                case PingFrame() if "ACK" not in frame.flags:
                    self._write(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
                case PingFrame() if ping and frame.opaque_data == ping.opaque_data:
                    is_answered = True
        return is_answered


def _headers(path: str, content_type: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", content_type),
        ("te", "trailers"),
    ]


def _begun_and_reset(stream: int, block: bytes) -> bytes:
    begun = HeadersFrame(stream, block, flags=["END_HEADERS"])
    return begun.serialize() + RstStreamFrame(stream).serialize()
