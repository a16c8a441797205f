"""Hosts of images that do what a host should not: slow ones, endless ones, and liars.

Each is one path of a server on loopback, which is reached under any address of 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Host = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(100_000_000), 9)


def say(*parts: bytes) -> Host:
    """Says one thing, and hangs up."""

    async def host(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return host


def drip(head: bytes, drop: bytes, every_s: float = 0.05) -> Host:
    """Says something, and then a little more again and again."""

    async def host(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(every_s)

    return host


def flood(head: bytes, data: bytes) -> Host:
    """Says something, and then more without an end, as fast as it is read."""
    return drip(head, data * (65_536 // len(data) + 1), 0)


def redirect(location: str, after_s: float = 0) -> Host:
    async def host(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode())
        await writer.drain()

    return host


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 1000\r\n\r\nimage")
    await writer.drain()
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def bomb(encoding: str, body: bytes) -> Host:
    head = f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return say(OK + head.encode() + body)


# All of these take as long as they are let.
SLOW: dict[str, Host] = {
    "hang": hang,
    "hang-in-body": drip(OK + b"Content-Length: 1000\r\n\r\nimage", b"", 60),
    "slow-status": drip(b"", b"H"),
    "slow-header": drip(OK, b"X: y\r\n"),
    "slow-body": drip(OK + b"\r\n", b"x"),
    "slow-chunks": drip(CHUNKED, b"1\r\nx\r\n"),
    "slow-interim": drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "slow-redirects": redirect("/slow-redirects", 0.4),
    "redirect-to-slow": redirect("/slow-body"),
}

UNSUPPORTED = "IMAGE_FORMAT_UNSUPPORTED"

# And these are over at once, with this reason.
QUICK: dict[str, tuple[Host, str]] = {
    "endless-body": (flood(OK + b"\r\n", b"x"), "IMAGE_TOO_LARGE"),
    "endless-chunks": (flood(CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), "IMAGE_TOO_LARGE"),
    "announced": (say(OK + b"Content-Length: 999999999\r\n\r\n"), "IMAGE_TOO_LARGE"),
    "longer-than-said": (flood(OK + b"Content-Length: 9\r\n\r\n", b"x"), UNSUPPORTED),
    "shorter-than-said": (say(OK + b"Content-Length: 99\r\n\r\nimage"), "SOURCE_UNAVAILABLE"),
    "tiny-chunks": (flood(CHUNKED, b"1\r\nx\r\n"), "SOURCE_UNAVAILABLE"),
    "chunk-extensions": (flood(CHUNKED, b"1;" + b"x" * 999 + b"\r\nx\r\n"), "SOURCE_UNAVAILABLE"),
    "endless-trailers": (flood(CHUNKED + b"0\r\n", b"X: y\r\n"), "SOURCE_UNAVAILABLE"),
    "endless-headers": (flood(OK, b"X: y\r\n"), "SOURCE_UNAVAILABLE"),
    "endless-header": (flood(OK + b"X: ", b"y"), "SOURCE_UNAVAILABLE"),
    "endless-interim": (flood(b"", b"HTTP/1.1 102 Hm\r\n\r\n"), "SOURCE_UNAVAILABLE"),
    "large-header": (say(OK + b"X: " + b"y" * 2**20 + b"\r\n\r\n"), "SOURCE_UNAVAILABLE"),
    "reset": (reset, "SOURCE_UNAVAILABLE"),
    "not-http": (flood(b"", b"SSH-2.0-OpenSSH\r\n"), "SOURCE_UNAVAILABLE"),
    "gzip": (bomb("gzip", BOMB), "SOURCE_ENCODING_NOT_ALLOWED"),
    "gzip-gzip": (bomb("gzip, gzip", gzip.compress(BOMB, 9)), "SOURCE_ENCODING_NOT_ALLOWED"),
    "br": (bomb("br", BOMB), "SOURCE_ENCODING_NOT_ALLOWED"),
    "zstd": (bomb("zstd", BOMB), "SOURCE_ENCODING_NOT_ALLOWED"),
    "gzip-unsaid": (say(OK + b"Content-Type: image/png\r\n\r\n" + BOMB), UNSUPPORTED),
    "transfer-gzip": (
        say(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BOMB),
        "SOURCE_UNAVAILABLE",
    ),
    "redirect-loop": (redirect("/redirect-loop"), "SOURCE_TOO_MANY_REDIRECTS"),
    "redirect-to-flood": (redirect("/endless-body"), "IMAGE_TOO_LARGE"),
    "no-content": (say(b"HTTP/1.1 204 No Content\r\n\r\n"), "SOURCE_HTTP_STATUS"),
    "partial": (say(b"HTTP/1.1 206 Partial\r\n\r\nimage"), "SOURCE_HTTP_STATUS"),
    "not-modified": (say(b"HTTP/1.1 304 Same\r\n\r\n"), "SOURCE_HTTP_STATUS"),
    "html": (say(OK + b"\r\n<html>not found</html>"), UNSUPPORTED),
    "empty": (say(OK + b"Content-Length: 0\r\n\r\n"), UNSUPPORTED),
}  # fmt: skip


@asynccontextmanager
async def hostile_hosts(image: bytes) -> AsyncIterator[int]:
    """Serves all of these, and an image at ``/image``; yields the port."""
    paths = SLOW | {name: host for name, (host, _) in QUICK.items()}
    paths["image"] = say(OK + b"\r\n" + image)
    tasks: set[asyncio.Task[None]] = set()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await paths[head.split(b" ")[1].decode().lstrip("/")](reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the fetcher hung up
        except asyncio.CancelledError:
            writer.transport.abort()  # what it still had to say is never sent
            raise
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(exchange(reader, writer)))

    server = await asyncio.start_server(accept, "0.0.0.0", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets the connections close
