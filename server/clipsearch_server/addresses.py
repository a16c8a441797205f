"""Which network addresses the server may connect to when a caller names a URL.

Deny by default: an address passes only if it is allocated, global and unicast, so that no URL
reaches the server's own machine, its network, or its cloud's metadata service. Judged is the
address about to be connected to, never the text of a host name: `2130706433`, `0x7f.1` and many
other spellings resolve to 127.0.0.1. Python's `is_global` is not enough: it calls multicast, 6to4,
NAT64 and others global.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address


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
# link-local, unique local, multicast, and most forms that embed an IPv4 address (mapped,
# compatible, translated, NAT64).
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

# Inside that block: the IANA IPv6 Special-Purpose Address Registry.
_SPECIAL_V6 = _networks_v6(
    "2001::/23",  # IETF protocols, Teredo (embeds IPv4), benchmarks, ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4 (embeds IPv4)
    "3fff::/20",  # documentation
)

# Interface identifiers that embed an IPv4 address (ISATAP, RFC 5214 section 6.1).
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

# What a self-hosted server may be allowed on top: loopback and private networks, but no link-local
# ones, which hold little but metadata services.
_PRIVATE: tuple[IPv4Network | IPv6Network, ...] = (
    *_networks_v4("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    *_networks_v6("::1/128", "fc00::/7"),
)

# Metadata services outside the link-local networks. They hand out credentials: denied in any mode.
_METADATA = frozenset(
    map(
        ip_address,
        (
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google Cloud
        ),
    )
)


def is_allowed(address: str, *, allow_private: bool) -> bool:
    """Returns whether the server may connect to an address.

    Loopback and private networks pass only with ``allow_private``; metadata services never do, nor
    does what is not an IP address, or one with a zone (``fe80::1%eth0``).
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if ip in _METADATA or getattr(ip, "scope_id", None) is not None:
        return False
    if allow_private and any(ip in network for network in _PRIVATE):
        return True
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    return _is_public_v6(ip)


def _is_public_v6(ip: IPv6Address) -> bool:
    return (
        ip in _GLOBAL_UNICAST_V6
        and not any(ip in network for network in _SPECIAL_V6)
        and int(ip) >> 32 & 0xFFFF_FFFF not in _ISATAP
    )
