"""Fetches over HTTP: requests, redirects, and the bounds of an answer.

The HTTP library is httpcore2, which does one thing: it knows no redirects, cookies, netrc, proxies
of the environment or content decoding that would have to be switched off. Where its connections
lead is for `network` to decide.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from types import MappingProxyType
from typing import Self
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import httpcore2

from clipsearch_server.budget import Budget
from clipsearch_server.errors import InvalidImage, InvalidRequest, SourceFailed, SourceNotAllowed
from clipsearch_server.fetch.network import DirectNetwork, Resolver, VettedNetwork
from clipsearch_server.fetch.resolver import SystemResolver
from clipsearch_server.fetch_policy import FetchPolicy, is_numeric
from clipsearch_server.priority import Places
from clipsearch_server.source_url import SourceUrl
from clipsearch_server.turns import Turns

logger = logging.getLogger(__name__)

# At DEBUG it logs whole requests: URLs with their tokens, and the headers of callers.
logging.getLogger("httpcore2").setLevel(logging.INFO)

_REDIRECTS = {301, 302, 303, 307, 308}

# The shares of the time that resolving and connecting may take, so that a silent host is reported
# as unreachable and not as slow; and one wait for bytes, the first ones above all.
_CONNECT_SHARE = 0.5
_SILENCE_SHARE = 0.75

# HTTP's chunks may be of one byte each, 11,000 of them in what a socket delivers at once. Packets
# carry 500 bytes and more, so a body in pieces much smaller was cut that way to keep us busy.
_MANY_CHUNKS = 1000
_MIN_CHUNK_BYTES = 128
_CHUNKS_A_TURN = 64

# The framing of a body in chunks of the smallest size, and some.
_FRAMING_BYTES = 131_072
_FRAMING_SHARE = 1 / 8

_HEADERS = (
    ("User-Agent", f"clipsearch-server/{version('clipsearch-server')}"),
    # A few kB of nested gzip unpack to gigabytes in one step, before a count of bytes can stop it.
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
)
_ACCEPT = ("Accept", "image/*")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class HttpFetcher:
    """Fetches images over HTTP/1.1. Implements the port ImageFetcher.

    Refuses everything but http and https to what the policy allows.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        *,
        timeout_s: float,
        max_bytes: int,
        memory: Budget,
        max_redirects: int = 3,
        max_concurrent: int = 32,
        max_concurrent_per_host: int = 4,
        proxy: str = "",
        resolve: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """``timeout_s`` bounds the network's share of a fetch, all redirects included; waiting for
        one of the ``max_concurrent`` places (``max_concurrent_per_host`` for each host) comes on
        top, and so does waiting for ``memory``. ``proxy``, an http URL, is asked for everything: it
        then resolves names and decides where they may lead. ``resolve`` defaults to the system's
        resolver, ``ssl_context`` to the system's authorities.
        """
        self._policy = policy
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._memory = memory
        self._max_redirects = max_redirects
        self._places = Places(max_concurrent)
        self._host_places = Turns(max_concurrent_per_host)
        self._resolver = SystemResolver(max_concurrent)
        resolve = resolve or self._resolver.resolve
        self._network = VettedNetwork(
            resolve,
            self._resolver.own_addresses,
            networks=policy.networks,
            timeout_s=timeout_s * _CONNECT_SHARE,
        )
        self._proxy = urlsplit(proxy) if proxy else None
        self._pool = self._new_pool(ssl_context or httpcore2.default_ssl_context(), resolve)

    def _new_pool(
        self, ssl_context: ssl.SSLContext, resolve: Resolver
    ) -> httpcore2.AsyncConnectionPool:
        """The bound on connections is the places'; and none serves a second request, for which its
        address would have to be vetted anew."""
        proxy = self._proxy
        if proxy is None:
            return httpcore2.AsyncConnectionPool(
                ssl_context=ssl_context,
                max_connections=None,
                max_keepalive_connections=0,
                network_backend=self._network,
            )
        user, password = (unquote_to_bytes(it or "") for it in (proxy.username, proxy.password))
        return httpcore2.AsyncHTTPProxy(
            f"http://{_without_user(proxy)}",
            proxy_auth=(user, password) if user or password else None,
            ssl_context=ssl_context,
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=DirectNetwork(resolve, timeout_s=self._timeout_s * _CONNECT_SHARE),
        )

    async def __aenter__(self) -> Self:
        if self._proxy is not None:
            logger.warning(
                "fetching through the proxy %s: it decides where a host's name may lead",
                _without_user(self._proxy),
            )
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()
        self._resolver.close()

    async def fetch(self, url: str, headers: Mapping[str, str] = _NO_HEADERS) -> bytes:
        """Returns the body that the URL delivers, following redirects.

        ``headers`` go to the URL's own scheme, host and port, and after a redirect away from there
        to nobody, not even back.

        Raises InvalidRequest (URL_MALFORMED, URL_SCHEME_NOT_ALLOWED, URL_USERINFO,
        URL_PORT_NOT_ALLOWED), SourceNotAllowed, SourceFailed, or InvalidImage (IMAGE_TOO_LARGE). No
        message holds an address, or anything that a host answered but its status.
        """
        target = SourceUrl.parse(url, self._policy)
        origin = target.origin
        remaining_s = self._timeout_s
        clock = asyncio.get_running_loop().time
        for _ in range(self._max_redirects + 1):
            # The host's place first: who waits for a busy host must not hold a place for any.
            async with self._host_places.take(target.host.removesuffix(".")), self._places:
                started = clock()
                try:
                    async with asyncio.timeout(remaining_s):
                        answer = await self._get(target, headers)
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
            if target.origin != origin:
                headers = _NO_HEADERS
        raise SourceFailed(
            f"the URL redirects more than {self._max_redirects} times",
            reason="SOURCE_TOO_MANY_REDIRECTS",
            retryable=False,
        )

    async def _get(self, url: SourceUrl, headers: Mapping[str, str]) -> bytes | SourceUrl:
        """Sends one request, and returns the body, or the URL that it redirects to."""
        if self._proxy is not None and (is_numeric(url.host) or ":" in url.host):
            await self._network.addresses(url.host, url.port)
        silence_s = self._timeout_s * _SILENCE_SHARE
        accept = () if any(name.lower() == "accept" for name in headers) else (_ACCEPT,)
        try:
            async with self._pool.stream(
                "GET",
                httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
                headers=[("Host", url.authority), *_HEADERS, *accept, *headers.items()],
                extensions={"timeout": {"read": silence_s, "write": silence_s}},
            ) as response:
                if response.status in _REDIRECTS and (location := _header(response, b"location")):
                    return self._redirect(url, location)
                _check_head(response, self._max_bytes)
                at_most = self._max_bytes + int(self._max_bytes * _FRAMING_SHARE) + _FRAMING_BYTES
                response.extensions["network_stream"].allow(at_most)
                return await self._read(response.aiter_stream())
        except httpcore2.ConnectError as error:
            # `network` has errors of its own for what comes before TLS.
            raise SourceFailed(
                "no trusted TLS connection to the URL's host could be made",
                reason="SOURCE_UNREACHABLE",
                retryable=False,
            ) from error
        except httpcore2.ProxyError as error:
            raise SourceFailed(
                "the proxy for fetching does not connect to the URL's host",
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
        size = count = 0
        # Pages are taken as they are filled, and given back at once, which malloc does not do.
        with mmap(-1, self._max_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS) as body:
            async for chunk in chunks:
                size += len(chunk)
                count += 1
                if size > self._max_bytes:
                    raise _too_large(self._max_bytes)
                body.write(chunk)
                if count > _MANY_CHUNKS and size < count * _MIN_CHUNK_BYTES:
                    raise SourceFailed(
                        "the URL's host sends the image in unduly small pieces",
                        reason="SOURCE_UNAVAILABLE",
                        retryable=False,
                    )
                if count % _CHUNKS_A_TURN == 0:
                    await asyncio.sleep(0)  # what was received at once is read without giving way
            return body[:size]

    def _redirect(self, source: SourceUrl, location: str) -> SourceUrl:
        """Returns where a redirect leads, by the rules for any URL and one more: from https never
        back to http."""
        try:
            url = SourceUrl.parse(location, self._policy, base=source.text)
        except InvalidRequest as error:
            raise SourceNotAllowed() from error
        if source.scheme == "https" and url.scheme == "http":
            raise SourceNotAllowed()
        return url


def _without_user(url: SplitResult) -> str:
    return url.netloc.rpartition("@")[2]


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
