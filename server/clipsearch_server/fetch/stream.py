"""A connection to a host, of which no more is read than was asked for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import anyio
import httpcore2
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

# All that may come before a body: HTTP sets no bound to headers and interim answers (1xx).
_MAX_HEAD_BYTES = 131_072


async def connect(address: str, port: int) -> HostStream:
    """Connects to a socket address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
        # What was vetted is what was connected to: the system takes 0.0.0.0 for 127.0.0.1.
        if ip_address(connection.getpeername()[0]) != ip_address(address):
            raise OSError("connected to another address")
    except BaseException:
        connection.close()
        raise
    return HostStream(_Socket(connection))


class HostStream(httpcore2.AsyncNetworkStream):
    """What httpcore2 reads from: plain, or TLS.

    Raises httpcore2's ReadError when the host sends more than the head of an answer, until
    ``allow`` says how much more may come.
    """

    def __init__(self, transport: ByteStream) -> None:
        self._transport = transport
        self._left_bytes = _MAX_HEAD_BYTES

    def allow(self, left_bytes: int) -> None:
        """Sets how many bytes may still come."""
        self._left_bytes = left_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                data = await self._transport.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpcore2.ReadError from error
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise httpcore2.ReadError("the host sends too much")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._transport.send(buffer)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpcore2.WriteError from error

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> HostStream:
        try:
            async with asyncio.timeout(timeout):
                secured = await TLSStream.wrap(
                    self._transport,
                    ssl_context=ssl_context,
                    hostname=server_hostname,
                    server_side=False,
                    standard_compatible=False,
                )
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            await self.aclose()
            raise httpcore2.ConnectError from error
        except BaseException:
            await self.aclose()
            raise
        return HostStream(secured)

    def get_extra_info(self, info: str) -> Any:
        return None


class _Socket(ByteStream):
    """A connected socket. asyncio's own transports read ahead, by a quarter of a megabyte."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await asyncio.sleep(0)  # of a host that is fast enough, the loop reads without giving way
        try:
            data = await self._loop.sock_recv(self._connection, max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._connection, item)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        raise NotImplementedError  # HTTP does not need it

    async def aclose(self) -> None:
        self._connection.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return {}
