"""Which network addresses the server may connect to when a caller names a URL.

Deny by default: an address passes only if it is allocated, global and unicast, so that no URL
reaches the server's own machine, its network, or its cloud's metadata service. Judged is the
address about to be connected to, never the text of a host name: `2130706433`, `0x7f.1` and many
other spellings resolve to 127.0.0.1. Python's `is_global` is not enough: it calls multicast, 6to4,
NAT64 and others global.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def _networks_v4(*networks: str) -> tuple[IPv4Network, ...]:
    return tuple(map(IPv4Network, networks))


def _networks_v6(*networks: str) -> tuple[IPv6Network, ...]:
    return tuple(map(IPv6Network, networks))


# The IANA IPv4 Special-Purpose Address Registry, with multicast and the reserved class E.
_SPECIAL_V4 = _networks_v4(
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by carrier-grade NAT
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local; most clouds' metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # IETF protocols
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
)

# All that IANA has allocated as global unicast. What lies outside is denied with it: loopback,
# link-local, unique local and multicast.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

# Inside that block: the IANA IPv6 Special-Purpose Address Registry.
_SPECIAL_V6 = _networks_v6(
    "2001::/23",  # IETF protocols, Teredo (embeds IPv4), benchmarks, ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4 (embeds IPv4)
    "3fff::/20",  # documentation
)

# Denied whatever an operator allows: what is no host, and where clouds hand out credentials to
# whoever asks from inside.
_NEVER: tuple[Network, ...] = (
    *_networks_v4("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
    *_networks_v6("::/128", "fe80::/10", "ff00::/8"),
    *_networks_v4(
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle Cloud
    ),
    *_networks_v6(
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google Cloud
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
        "fd00:42::42/128",  # Scaleway
        "64:ff9b:1::/48",  # local NAT64: where it embeds the IPv4 address cannot be told
    ),
)

# IPv6 addresses that a router may send on to an IPv4 address, which the last 32 bits are.
_EMBEDDING_AT_THE_END = _networks_v6(
    "::/96",  # compatible
    "::ffff:0:0/96",  # mapped
    "::ffff:0:0:0/96",  # translated
    "64:ff9b::/96",  # NAT64
)
_TO_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
# Interface identifiers, of any network (ISATAP, RFC 5214 section 6.1).
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def is_allowed(
    address: str, *, networks: Iterable[Network] = (), own: Container[Address] = ()
) -> bool:
    """Returns whether the server may connect to an address.

    Public addresses pass, but for those of this machine's ``own`` interfaces; others only if one of
    the ``networks`` holds them. An IPv6 address that embeds an IPv4 address, be it public, is not
    public itself; where a network has it, the embedded one must pass too. Metadata services never
    pass, nor does what is not an IP address, or one with a zone (``fe80::1%eth0``).
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return getattr(ip, "scope_id", None) is None and _is_allowed(ip, tuple(networks), own)


def is_never_allowed(network: Network) -> bool:
    """Returns whether no address of a network ever passes, whoever allows it."""
    return any(
        network.version == denied.version and network.subnet_of(denied)  # type: ignore[arg-type]
        for denied in _NEVER
    )


def _is_allowed(ip: Address, networks: Sequence[Network], own: Container[Address]) -> bool:
    if any(ip in network for network in _NEVER):
        return False
    named = any(ip in network for network in networks)
    if embedded := _embedded(ip):
        return named and all(_is_allowed(inner, networks, own) for inner in embedded)
    return named or (ip not in own and _is_public(ip))


def _is_public(ip: Address) -> bool:
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    return ip in _GLOBAL_UNICAST_V6 and not any(ip in network for network in _SPECIAL_V6)


def _embedded(ip: Address) -> Sequence[IPv4Address]:
    """Returns the IPv4 addresses that an IPv6 address may lead to."""
    if isinstance(ip, IPv4Address) or ip.is_loopback:
        return ()
    bits = int(ip)
    end = IPv4Address(bits & 0xFFFF_FFFF)
    if (
        any(ip in network for network in _EMBEDDING_AT_THE_END)
        or bits >> 32 & 0xFFFF_FFFF in _ISATAP
    ):
        return (end,)
    if ip in _TO_6TO4:
        return (IPv4Address(bits >> 80 & 0xFFFF_FFFF),)
    if ip in _TEREDO:  # the server's, and the client's, which is inverted
        return (IPv4Address(bits >> 64 & 0xFFFF_FFFF), IPv4Address(int(end) ^ 0xFFFF_FFFF))
    return ()
