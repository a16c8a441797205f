"""What strangers write to have a server fetch from inside its own network: addresses, the many
spellings of one, and URLs that parsers read differently.

The networks are those that the trusted implementations deny (stripe/smokescreen, imgproxy,
matrix-org/synapse, saleor/requests-hardened), the spellings those that getaddrinfo understands.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network

_NETWORKS = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "233.252.0.0/24", "240.0.0.0/4",
    "255.255.255.255/32", "168.63.129.16/32", "100.100.100.200/32",
    "::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96",
    "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28",
    "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fd00::/8", "fe80::/10",
    "fec0::/10", "ff00::/8", "400::/6", "4000::/2",
)  # fmt: skip

_METADATA = (
    "169.254.169.254", "169.254.170.2", "169.254.169.253", "169.254.169.123", "169.254.42.42",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::253",
    "fd20:ce::254", "fd00:42::42", "fd00:c1::a9fe:a9fe", "fe80::a9fe:a9fe",
)  # fmt: skip

# Whom an IPv6 address may embed: even a public one, which could be behind a gateway.
_EMBEDDED = (
    "127.0.0.1", "10.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "100.64.0.1",
    "168.63.129.16", "0.0.0.0", "198.18.0.1", "224.0.0.1", "93.184.216.34",
)  # fmt: skip


def addresses() -> list[str]:
    """Every address is one that no server on the internet has, or one that leads inside."""
    found = dict.fromkeys(_METADATA)
    for name in _NETWORKS:
        network = ip_network(name)
        size = network.num_addresses
        for place in (0, 1, size // 4, size // 2, size // 4 * 3, size - 2, size - 1):
            found[str(network[max(0, min(place, size - 1))])] = None
    for inner in map(IPv4Address, _EMBEDDED):
        found |= dict.fromkeys(_embeddings(int(inner)))
    return list(found)


def _embeddings(v4: int) -> Iterator[str]:
    isatap = int(IPv6Address("2606:4700::"))
    for value in (
        v4,  # compatible
        0xFFFF << 32 | v4,  # mapped
        0xFFFF << 48 | v4,  # translated
        int(IPv6Address("64:ff9b::")) | v4,  # NAT64
        int(IPv6Address("64:ff9b:1::")) | v4,
        int(IPv6Address("64:ff9b:1::")) | v4 >> 16 << 64 | (v4 & 0xFFFF) << 40,
        0x2002 << 112 | v4 << 80,  # 6to4
        0x2002 << 112 | v4 << 80 | 1,
        0x20010000 << 96 | (v4 ^ 0xFFFF_FFFF),  # Teredo
        0x20010000 << 96 | v4 << 64,
        isatap | 0x0000_5EFE << 32 | v4,
        isatap | 0x0200_5EFE << 32 | v4,
        int(IPv6Address("fe80::5efe:0:0")) | v4,
    ):
        yield str(IPv6Address(value))


def _spellings(v4: str) -> Iterator[str]:
    """What getaddrinfo, or a parser before it, takes for an IPv4 address."""
    a, b, c, d = map(int, v4.split("."))
    number = int(IPv4Address(v4))
    circled = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")
    yield from (
        str(number), hex(number), f"0X{number:X}", f"0{number:o}", f"0x00000000{number:08x}",
        f"{a}.{number & 0xFFFFFF}", f"{a:#x}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a}.{b}.{c}.0{d:o}",
        f"{a}.{b}.{c}.{d:#x}", f"{a + 256}.{b}.{c}.{d}", f"{v4}.",
        f"[::ffff:{v4}]", f"[::{v4}]", f"[64:ff9b::{v4}]",
        f"[0:0:0:0:0:ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]",
        v4.translate(circled), v4.replace(".", "。"), v4.replace(".", "\uff0e"),
        v4.replace(".", "%2e"), "".join(f"%{ord(character):02x}" for character in v4),
    )  # fmt: skip


def _confusions(v4: str) -> Iterator[str]:
    """URLs of which one parser says that the host is a public one, and another that it is not."""
    public = "images.public.test"
    yield from (
        f"http://{public}@{v4}/", f"http://{public}:80@{v4}/", f"http://{public}%00@{v4}/",
        f"http://user:password@{v4}/", f"http://@{v4}/", f"http://{public}@@{v4}/",
        f"http://{public}\\@{v4}/", f"http://{v4}\\@{public}/", f"http://{v4}:80\\@{public}/",
        f"http://{v4}#@{public}/", f"http://{v4}?@{public}/", f"http://{v4};@{public}/",
        f"http://{public} @{v4}/", f"http://{v4}\t/", f"http://\t{v4}/", f" http://{v4}/",
        f"http://{v4} /", f"http:\\\\{v4}\\", f"http:/{v4}/", f"http:{v4}/", f"http:////{v4}/",
        f"///{v4}/", f"//{v4}/", f"http://[{v4}]/", f"http://[{public}]@{v4}/",
        f"http://[::1]{v4}/", f"http://{v4}:80:80/", f"http://{v4}:+80/", f"http://{v4}:\uff1080/",
        f"http://{v4}\0{public}/", f"http://{v4}%00.{public}/", f"http://{v4}%23{public}/",
        f"http://{public}\r\nHost: {v4}/", f"http://{v4},{public}/", f"http://{v4}|{public}/",
        f"jar:http://{v4}!/", f"HTTP://{v4}",
    )  # fmt: skip


_PORTS = (0, 1, 21, 22, 25, 53, 81, 110, 2375, 3306, 5432, 6333, 6379, 8001, 8080, 9200, 11211,
          50051, 65535, 65536, 99999, -1)  # fmt: skip
_SCHEMES = (
    "blob", "data", "dict", "file", "ftp", "git", "gopher", "http+unix", "javascript", "ldap",
    "netdoc", "php", "sftp", "ssh", "tftp", "unix", "view-source", "ws",
)  # fmt: skip
_ZONED = ("fe80::1%25lo", "::1%lo", "fe80::1%lo", "::1%1")
_NO_ADDRESS = ("v1.x", ":::", "")


def urls() -> list[str]:
    """Those that must not be fetched whatever their names resolve to, beside `addresses`."""
    found: dict[str, None] = {}
    for v4 in ("127.0.0.1", "169.254.169.254", "10.0.0.1"):
        found |= dict.fromkeys(f"http://{host}/latest/meta-data/" for host in _spellings(v4))
        found |= dict.fromkeys(_confusions(v4))
    found |= dict.fromkeys(f"https://{host}/" for host in _spellings("127.0.0.1"))
    for host in ("127.0.0.1", "images.public.test"):
        found |= dict.fromkeys(f"http://{host}:{port}/" for port in _PORTS)
        found |= dict.fromkeys(f"{scheme}://{host}/x" for scheme in _SCHEMES)
    found |= dict.fromkeys(f"http://[{host}]/" for host in (*_ZONED, *_NO_ADDRESS))
    return list(found)


# Names of machines inside, with the address that each has there.
NAMES = {
    "localhost": "127.0.0.1",
    "localhost.localdomain": "127.0.0.1",
    "ip6-localhost": "::1",
    "metadata": "169.254.169.254",
    "metadata.google.internal": "169.254.169.254",
    "metadata.goog": "169.254.169.254",
    "instance-data": "169.254.169.254",
    "instance-data.ec2.internal": "169.254.169.254",
    "kubernetes.default.svc": "10.96.0.1",
    "kubernetes.default.svc.cluster.local": "10.96.0.1",
    "host.docker.internal": "172.17.0.1",
    "qdrant": "172.18.0.2",
    "triton": "172.18.0.3",
    "169.254.169.254.nip.io": "169.254.169.254",
    "www.127-0-0-1.sslip.io": "127.0.0.1",
}
