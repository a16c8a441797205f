"""No address passes that leads to the server's own machine, network or cloud."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch_server.addresses import is_allowed

# First, middle and last addresses of each are tried. The networks are those that the trusted
# implementations deny (stripe/smokescreen, saleor/requests-hardened, matrix-org/synapse).
DENIED_NETWORKS = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "233.252.0.0/24", "240.0.0.0/4",
    "255.255.255.255/32", "168.63.129.16/32",
    "::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96",
    "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28",
    "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10",
    "ff00::/8", "4000::/2",
]  # fmt: skip

# Neighbours of denied networks, and hosts that everyone knows.
ALLOWED = [
    "1.0.0.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
    "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "93.184.216.34", "2606:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2a00::1",
]  # fmt: skip

METADATA = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16",
            "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe"]  # fmt: skip


@pytest.mark.parametrize("network", DENIED_NETWORKS)
def test_special_networks_are_denied(network: str) -> None:
    addresses = ip_network(network)
    middle = addresses.num_addresses // 2
    for address in (addresses[0], addresses[middle], addresses[-1]):
        assert not is_allowed(str(address), allow_private=False), address


@pytest.mark.parametrize("address", ALLOWED)
@pytest.mark.parametrize("allow_private", [False, True])
def test_public_addresses_are_allowed(address: str, allow_private: bool) -> None:
    assert is_allowed(address, allow_private=allow_private)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.9.10", "::1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1",
     "fd12:3456::1"],
)  # fmt: skip
def test_private_addresses_are_allowed_on_request(address: str) -> None:
    assert is_allowed(address, allow_private=True)
    assert not is_allowed(address, allow_private=False)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("allow_private", [False, True])
def test_metadata_services_are_never_allowed(address: str, allow_private: bool) -> None:
    assert not is_allowed(address, allow_private=allow_private)


@given(inner=st.ip_addresses(v=4), public=st.sampled_from(["2606:4700::", "2a00:1450:4001::"]))
def test_no_ipv6_form_that_embeds_an_ipv4_address_is_allowed(
    inner: IPv4Address, public: str
) -> None:
    bits = int(inner)
    embeddings = [
        bits,  # compatible
        0xFFFF << 32 | bits,  # mapped
        0xFFFF << 48 | bits,  # translated
        int(IPv6Address("64:ff9b::")) | bits,  # NAT64
        0x2002 << 112 | bits << 80,  # 6to4
        0x20010000 << 96 | (bits ^ 0xFFFF_FFFF),  # Teredo
        int(IPv6Address(public)) | 0x0000_5EFE << 32 | bits,  # ISATAP
        int(IPv6Address(public)) | 0x0200_5EFE << 32 | bits,
    ]
    for embedding in embeddings:
        assert not is_allowed(str(IPv6Address(embedding)), allow_private=False)


@given(st.ip_addresses())
def test_only_what_python_calls_global_is_allowed(address: IPv4Address | IPv6Address) -> None:
    if is_allowed(str(address), allow_private=False):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "text", ["", "localhost", "2130706433", "127.1", "0x7f.1", "1.1.1.1/32", "::1%lo",
             "fd00:ec2::254%1", "2606:4700::1111%eth0"],
)  # fmt: skip
def test_what_is_not_a_plain_address_is_denied(text: str) -> None:
    assert not is_allowed(text, allow_private=True)
