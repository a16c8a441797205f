"""The one place that resolves a host's name, judges its addresses, and connects to one of them.

No second resolution can bring another answer (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TypeAlias

import httpcore2

from clipsearch_server.addresses import Address, Network, is_allowed
from clipsearch_server.errors import Overloaded, SourceFailed, SourceNotAllowed
from clipsearch_server.fetch.stream import HostStream, connect

# Resolves a host name or address literal for a port into IP addresses. Raises OSError.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
# Returns the addresses of this machine's own interfaces.
OwnAddresses: TypeAlias = Callable[[], Awaitable[Collection[Address]]]

_MAX_ADDRESSES_TRIED = 4


class DirectNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to any address of a host that it is told: of the operator's own proxy."""

    _whose = "the proxy for fetching"

    def __init__(self, resolve: Resolver, *, timeout_s: float) -> None:
        """``timeout_s`` bounds resolving and connecting together."""
        self._resolve = resolve
        self._timeout_s = timeout_s

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> HostStream:
        """Resolves the host, once, and connects to one of the addresses found.

        Raises SourceNotAllowed if one is not allowed, SourceFailed if there is no address, or none
        answers, and Overloaded if this process may open nothing more.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self.addresses(host, port)
                return await self._connect(addresses[:_MAX_ADDRESSES_TRIED], port)
        except TimeoutError as error:
            raise SourceFailed(
                f"{self._whose} could not be reached in time",
                reason="SOURCE_UNREACHABLE",
                retryable=True,
            ) from error

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Returns the addresses of a host. Raises SourceFailed if it has none."""
        try:
            addresses = await self._resolve(host, port)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "no addresses")
        except (OSError, UnicodeError) as error:  # UnicodeError: an empty or too long label
            raise SourceFailed(
                f"the name of {self._whose} cannot be resolved",
                reason="SOURCE_UNREACHABLE",
                retryable=isinstance(error, OSError) and error.errno == socket.EAI_AGAIN,
            ) from error
        return addresses

    async def _connect(self, addresses: Sequence[str], port: int) -> HostStream:
        failure: OSError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(self._timeout_s / len(addresses)):
                    return await connect(address, port)
            except OSError as error:  # TimeoutError too
                _refuse_if_out_of_descriptors(error)
                failure = error
        raise SourceFailed(
            f"{self._whose} does not accept connections",
            reason="SOURCE_UNAVAILABLE",
            retryable=True,
        ) from failure


class VettedNetwork(DirectNetwork):
    """Connects to allowed addresses only."""

    _whose = "the URL's host"

    def __init__(
        self,
        resolve: Resolver,
        own_addresses: OwnAddresses,
        *,
        networks: Sequence[Network],
        timeout_s: float,
    ) -> None:
        super().__init__(resolve, timeout_s=timeout_s)
        self._own_addresses = own_addresses
        self._networks = networks

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Returns the addresses of a host, all of them allowed.

        Raises SourceNotAllowed if any is not: a host that is also somewhere private is not a public
        one. Raises SourceFailed if it has none.
        """
        try:
            own = await self._own_addresses()
        except OSError as error:
            _refuse_if_out_of_descriptors(error)
            raise
        # After it: without a descriptor, the system's resolver says that there is no such name.
        addresses = await super().addresses(host, port)
        if not all(is_allowed(it, networks=self._networks, own=own) for it in addresses):
            raise SourceNotAllowed()
        return addresses


def _refuse_if_out_of_descriptors(error: OSError) -> None:
    """Raises Overloaded where the fault is this process's, and no host's."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise Overloaded("the server has too many connections open; try again later") from error
