"""URL -> bytes, safely: what strangers name, this server opens from inside its network.

The HTTP library is httpcore2, which does one thing: it knows no redirects, cookies, proxies, netrc
or content decoding that would have to be switched off. Each of its connections is opened by
`_VettedNetwork`, the one place that resolves a name, judges every address it has, and connects to
one of those very addresses. No second resolution can bring another answer (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Self, TypeAlias

import httpcore2

from clipsearch_server.addresses import is_allowed
from clipsearch_server.budget import Budget
from clipsearch_server.errors import InvalidImage, InvalidRequest, SourceFailed, SourceNotAllowed
from clipsearch_server.source_url import SourceUrl
from clipsearch_server.turns import Turns

# Resolves a host name or address literal for a port into IP addresses. Raises OSError.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

_REDIRECTS = {301, 302, 303, 307, 308}

# The share of the time that resolving and connecting may take, so that a silent host is reported as
# unreachable and not as slow.
_CONNECT_SHARE = 0.5
_MAX_ADDRESSES_TRIED = 4

# HTTP's chunks may be of one byte each, 11,000 of them in what a socket delivers at once. Packets
# carry 500 bytes and more, so a body in pieces much smaller was cut that way to keep us busy.
_MANY_CHUNKS = 1000
_MIN_CHUNK_BYTES = 128
_CHUNKS_A_TURN = 64

_HEADERS = (
    ("User-Agent", f"clipsearch-server/{version('clipsearch-server')}"),
    ("Accept", "image/*"),
    # A few kB of nested gzip unpack to gigabytes in one step, before a count of bytes can stop it.
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
)


class HttpFetcher:
    """Fetches images over HTTP/1.1. Implements the port ImageFetcher.

    Refuses everything but http and https to allocated global unicast addresses on ports 80 and 443,
    unless ``allow_private`` admits loopback and private addresses and any port.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        max_bytes: int,
        memory: Budget,
        max_redirects: int = 3,
        max_concurrent: int = 32,
        max_concurrent_per_host: int = 4,
        allow_private: bool = False,
        resolve: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """``timeout_s`` bounds the network's share of a fetch, all redirects included; waiting for
        one of the ``max_concurrent`` places (``max_concurrent_per_host`` for each host) comes on
        top, and so does waiting for ``memory``. ``resolve`` defaults to the system's resolver,
        ``ssl_context`` to the system's authorities.
        """
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._memory = memory
        self._max_redirects = max_redirects
        self._allow_private = allow_private
        self._places = asyncio.Semaphore(max_concurrent)
        self._host_places = Turns(max_concurrent_per_host)
        # getaddrinfo blocks and cannot be cancelled: its threads are our own, so that names that
        # hang hold up no other part of the server.
        self._resolver_threads = ThreadPoolExecutor(max_concurrent, "clipsearch-resolver")
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or httpcore2.default_ssl_context(),
            max_connections=max_concurrent,
            max_keepalive_connections=0,
            network_backend=_VettedNetwork(
                resolve or self._resolve,
                timeout_s=timeout_s * _CONNECT_SHARE,
                allow_private=allow_private,
            ),
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()
        self._resolver_threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str) -> bytes:
        """Returns the body that the URL delivers, following redirects.

        Raises InvalidRequest (URL_MALFORMED, URL_SCHEME_NOT_ALLOWED, URL_USERINFO,
        URL_PORT_NOT_ALLOWED), SourceNotAllowed, SourceFailed, or InvalidImage (IMAGE_TOO_LARGE). No
        message holds an address, or anything that a host answered but its status.
        """
        target = SourceUrl.parse(url, any_port=self._allow_private)
        remaining_s = self._timeout_s
        clock = asyncio.get_running_loop().time
        for _ in range(self._max_redirects + 1):
            # The host's place first: who waits for a busy host must not hold a place for any.
            async with self._host_places.take(target.host), self._places:
                started = clock()
                try:
                    async with asyncio.timeout(remaining_s):
                        answer = await self._get(target)
                except TimeoutError as error:
                    raise SourceFailed(
                        "the URL's host did not deliver the image in time",
                        reason="SOURCE_TIMEOUT",
                        retryable=True,
                    ) from error
                remaining_s -= clock() - started
                if isinstance(answer, bytes):
                    # With the place: what waits for memory is bounded by the number of places.
                    await self._memory.acquire(len(answer))
                    return answer
            target = answer
        raise SourceFailed(
            f"the URL redirects more than {self._max_redirects} times",
            reason="SOURCE_TOO_MANY_REDIRECTS",
            retryable=False,
        )

    async def _get(self, url: SourceUrl) -> bytes | SourceUrl:
        """Sends one request, and returns the body, or the URL that it redirects to."""
        try:
            async with self._pool.stream(
                "GET",
                httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
                headers=[("Host", url.authority), *_HEADERS],
            ) as response:
                if response.status in _REDIRECTS and (location := _header(response, b"location")):
                    return self._redirect(url, location)
                _check_head(response, self._max_bytes)
                return await self._read(response.aiter_stream())
        except httpcore2.ConnectError as error:
            # _VettedNetwork has errors of its own for what comes before TLS.
            raise SourceFailed(
                "no trusted TLS connection to the URL's host could be made",
                reason="SOURCE_UNREACHABLE",
                retryable=False,
            ) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError) as error:
            raise SourceFailed(
                "the URL's host broke off its answer, or it is not an HTTP answer",
                reason="SOURCE_UNAVAILABLE",
                retryable=True,
            ) from error

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes:
        body = bytearray()
        count = 0
        async for chunk in chunks:
            body += chunk
            count += 1
            if len(body) > self._max_bytes:
                raise _too_large(self._max_bytes)
            if count > _MANY_CHUNKS and len(body) < count * _MIN_CHUNK_BYTES:
                raise SourceFailed(
                    "the URL's host sends the image in unduly small pieces",
                    reason="SOURCE_UNAVAILABLE",
                    retryable=False,
                )
            if count % _CHUNKS_A_TURN == 0:
                await asyncio.sleep(0)  # what was received at once is read without giving way
        return bytes(body)

    def _redirect(self, source: SourceUrl, location: str) -> SourceUrl:
        """Returns where a redirect leads, by the rules for any URL and one more: from https never
        back to http."""
        try:
            url = SourceUrl.parse(location, any_port=self._allow_private, base=source.text)
        except InvalidRequest as error:
            raise _not_allowed() from error
        if source.scheme == "https" and url.scheme == "http":
            raise _not_allowed()
        return url

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        answers = await asyncio.get_running_loop().run_in_executor(
            self._resolver_threads,
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        )
        return [str(sockaddr[0]) for *_, sockaddr in answers]


class _VettedNetwork(httpcore2.AsyncNetworkBackend):
    """Opens connections to allowed addresses only."""

    def __init__(self, resolve: Resolver, *, timeout_s: float, allow_private: bool) -> None:
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolves the host, once, and connects to one of the addresses found.

        Raises SourceNotAllowed if any address is not allowed: a host that is also somewhere private
        is not a public one. Raises SourceFailed if there is no address, or none answers.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._addresses(host, port)
                return await self._connect(addresses[:_MAX_ADDRESSES_TRIED], port)
        except TimeoutError as error:
            raise SourceFailed(
                "the URL's host could not be reached in time",
                reason="SOURCE_UNREACHABLE",
                retryable=True,
            ) from error

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "no addresses")
        except (OSError, UnicodeError) as error:  # UnicodeError: an empty or too long label
            raise SourceFailed(
                "the URL's host name cannot be resolved",
                reason="SOURCE_UNREACHABLE",
                retryable=isinstance(error, OSError) and error.errno == socket.EAI_AGAIN,
            ) from error
        if not all(is_allowed(address, allow_private=self._allow_private) for address in addresses):
            raise _not_allowed()
        return addresses

    async def _connect(self, addresses: Sequence[str], port: int) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout=self._timeout_s / len(addresses)
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise SourceFailed(
            "the URL's host does not accept connections",
            reason="SOURCE_UNAVAILABLE",
            retryable=True,
        ) from failure


def _header(response: httpcore2.Response, name: bytes) -> str:
    """Returns all values of a header, or the empty string."""
    return ", ".join(v.decode("latin-1") for k, v in response.headers if k.lower() == name)


def _check_head(response: httpcore2.Response, max_bytes: int) -> None:
    """Raises SourceFailed or InvalidImage if the response's body is not worth reading."""
    if response.status != 200:
        retryable = response.status == 429 or response.status >= 500
        raise SourceFailed(
            f"the URL's host answered with HTTP status {response.status}",
            reason="SOURCE_UNAVAILABLE" if retryable else "SOURCE_HTTP_STATUS",
            retryable=retryable,
            status=str(response.status),
        )
    if _header(response, b"content-encoding").lower() not in ("", "identity"):
        raise SourceFailed(
            "the URL's host compresses the image for transport though asked not to",
            reason="SOURCE_ENCODING_NOT_ALLOWED",
            retryable=False,
        )
    length = _header(response, b"content-length")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> InvalidImage:
    return InvalidImage(
        f"the image has more than {max_bytes:,} bytes, the limit here",
        reason="IMAGE_TOO_LARGE",
        max_image_bytes=str(max_bytes),
    )


def _not_allowed() -> SourceNotAllowed:
    return SourceNotAllowed("this server does not fetch from the URL's address")
