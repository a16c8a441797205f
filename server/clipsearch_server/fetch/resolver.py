"""What the system says of addresses, asked in threads: it blocks, and cannot be cancelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TypeVar

import psutil

from clipsearch_server.addresses import Address

T = TypeVar("T")

# A name whose servers are silent holds its thread for as long as the system's resolver waits: for
# 20 s with two servers, two attempts and 5 s each. Whoever asked gives up sooner, and the next one
# needs a thread: with several for each place, a hostile name does not hold up others.
_THREADS_A_PLACE = 4


class SystemResolver:
    """The system's resolver, with its hosts file and search domains."""

    def __init__(self, places: int) -> None:
        """``places`` is how many ask at a time."""
        self._threads = ThreadPoolExecutor(places * _THREADS_A_PLACE, "clipsearch-resolver")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Returns the addresses of a name, or of an address however it is spelt. Raises OSError,
        and UnicodeError for what cannot be a name."""
        answers = await self._in_thread(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(sockaddr[0]) for *_, sockaddr in answers]

    async def own_addresses(self) -> frozenset[Address]:
        """Returns this machine's addresses, as they are now."""
        return await self._in_thread(_own_addresses)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _own_addresses() -> frozenset[Address]:
    # Not those of the loopback interface: they are in the loopback networks, which are denied as
    # such, or a public address that the world reaches here too (a load balancer's, anycast).
    interfaces = psutil.net_if_stats()
    return frozenset(
        ip_address(address.address.partition("%")[0])
        for name, addresses in psutil.net_if_addrs().items()
        if name not in interfaces or "loopback" not in interfaces[name].flags.split(",")
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    )
