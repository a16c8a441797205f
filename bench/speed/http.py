"""HTTP/1.1 with as little as a load generator needs: requests that are bytes already, over
connections that stay open. An HTTP library takes several times the processor."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from types import TracebackType
from typing import Self


def post(path: str, body: object) -> bytes:
    """Returns the bytes of a POST of this as JSON."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class HttpCalls:
    """Calls that send a request of their number each, over the connection that is free longest."""

    def __init__(self, address: str, requests: Sequence[bytes], *, connections: int) -> None:
        self._host, _, self._port = address.partition(":")
        self._requests = requests
        self._connections = connections
        self._free: asyncio.Queue[tuple[StreamReader, StreamWriter]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        for _ in range(self._connections):
            self._free.put_nowait(await asyncio.open_connection(self._host, self._port))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while not self._free.empty():
            _, writer = self._free.get_nowait()
            writer.close()

    async def __call__(self, number: int) -> bytes:
        """Returns the body of a response. Raises RuntimeError if it is none of status 200."""
        connection = reader, writer = await self._free.get()
        writer.write(self._requests[number])
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        (length,) = (int(line[15:]) for line in lines if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        if " 200 " not in lines[0]:
            raise RuntimeError(f"{lines[0]}: {body[:500]!r}")
        self._free.put_nowait(connection)
        return body
