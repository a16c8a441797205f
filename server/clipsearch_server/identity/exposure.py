"""Who can reach an address that the server listens on."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv6Address, ip_address

from clipsearch_server.errors import StartupError


async def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``host:port``: a name, if it leads nowhere else.

    Raises StartupError if the name leads nowhere: when gRPC asks for it, it might.
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"cannot listen on {address}: no address of this machine has that name; choose another "
            "with --address"
        ) from error
    return all(_is_loopback(str(info[4][0])) for info in infos)


def _is_loopback(text: str) -> bool:
    found = ip_address(text)
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback
