"""The port that workers share."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from clipsearch_server.errors import StartupError


@contextmanager
def reserved(address: str) -> Iterator[str]:
    """Keeps a host:port as long as the block lasts, for those who listen on it with SO_REUSEPORT;
    yields it with the port that was taken in place of 0.

    Raises StartupError if another has it: also one whose sockets have SO_REUSEPORT, as two servers
    on one port would share its calls without anybody noticing. What is kept is bound and never
    listened on, so that the kernel hands it no connection. Linux only.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise StartupError(f"cannot listen on {address}: {error.strerror}") from error
    taken = int(port)
    with ExitStack() as stack:
        bound = 0
        for family, kind, protocol, _, place in found:
            keeper = stack.enter_context(socket.socket(family, kind, protocol))
            try:
                _bind(keeper, (place[0], taken, *place[2:]))
            except OSError as error:
                # A name may have an address of a family that this machine does not speak.
                if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and len(found) > 1:
                    continue
                raise StartupError(_unavailable(address)) from error
            bound += 1
            taken = keeper.getsockname()[1]
        if not bound:
            raise StartupError(_unavailable(address))
        yield f"{host}:{taken}"


def _bind(keeper: socket.socket, place: tuple[str | int, ...]) -> None:
    # What an ended server's connections leave behind for a minute does not count.
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(place)
    # Alone when it was bound, from now on open to whoever shares: only now may others have it too.
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _unavailable(address: str) -> str:
    return (
        f"cannot listen on {address}: it is taken, or not an address of this machine; choose "
        "another with --address"
    )
