"""What the system says of names and of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from clipsearch_server.fetch.resolver import SystemResolver


@pytest.fixture
def resolver() -> Iterator[SystemResolver]:
    resolver = SystemResolver(2)
    yield resolver
    resolver.close()


async def test_names_and_every_spelling_of_an_address(resolver: SystemResolver) -> None:
    for host in ("localhost", "127.0.0.1", "2130706433", "0x7f.1"):
        assert "127.0.0.1" in await resolver.resolve(host, 80)
    assert await resolver.resolve("::1", 80) == ["::1"]
    with pytest.raises(OSError, match=r"[Nn]ot known|associated|resolution"):
        await resolver.resolve("no-such-name.invalid", 80)
    with pytest.raises(UnicodeError):
        await resolver.resolve("a..b", 80)


async def test_own_addresses_are_those_of_interfaces_but_loopback(
    resolver: SystemResolver,
) -> None:
    own = await resolver.own_addresses()
    assert not any(address.is_loopback for address in own)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses whom to send from
        except OSError as error:
            pytest.skip(f"this machine has no network: {error}")
        assert ip_address(probe.getsockname()[0]) in own
