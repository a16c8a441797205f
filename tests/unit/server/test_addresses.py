"""No address passes that leads to the server's own machine, network or cloud."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch_server.addresses import Network, is_allowed

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

METADATA = [
    "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42", "fd00:c1::a9fe:a9fe",
    "fe80::a9fe:a9fe",
]  # fmt: skip

EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@pytest.mark.parametrize("network", DENIED_NETWORKS)
def test_special_networks_are_denied(network: str) -> None:
    addresses = ip_network(network)
    middle = addresses.num_addresses // 2
    for address in (addresses[0], addresses[middle], addresses[-1]):
        assert not is_allowed(str(address)), address


@pytest.mark.parametrize("address", ALLOWED)
@pytest.mark.parametrize("networks", [(), (ip_network("10.0.0.0/8"),), EVERYTHING])
def test_public_addresses_are_allowed(address: str, networks: tuple[Network, ...]) -> None:
    assert is_allowed(address, networks=networks)


@pytest.mark.parametrize(
    ("address", "network"),
    [("127.0.0.1", "127.0.0.0/8"), ("::1", "::1/128"), ("10.1.2.3", "10.1.2.3/32"),
     ("100.64.0.1", "100.64.0.0/10"), ("fd12:3456::1", "fc00::/7"), ("203.0.113.9", "0.0.0.0/0")],
)  # fmt: skip
def test_an_operator_allows_networks(address: str, network: str) -> None:
    assert is_allowed(address, networks=[ip_network(network)])
    assert not is_allowed(address, networks=[ip_network("192.168.0.0/16"), ip_network("fd00::/64")])
    assert not is_allowed(address)


@pytest.mark.parametrize("address", [*METADATA, "0.0.0.0", "::", "224.0.0.1", "ff02::1"])
def test_some_addresses_are_never_allowed(address: str) -> None:
    assert not is_allowed(address)
    assert not is_allowed(address, networks=[*EVERYTHING, ip_network(address)])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111"])
def test_an_own_address_is_allowed_only_as_one_of_a_network(address: str) -> None:
    own = {ip_address(address)}
    assert not is_allowed(address, own=own)
    assert is_allowed(address, own=own, networks=[ip_network(address)])


def embeddings(inner: IPv4Address, public: str) -> list[str]:
    bits = int(inner)
    forms = [
        bits,  # compatible
        0xFFFF << 32 | bits,  # mapped
        0xFFFF << 48 | bits,  # translated
        int(IPv6Address("64:ff9b::")) | bits,  # NAT64
        int(IPv6Address("64:ff9b:1::")) | bits,  # NAT64, local
        int(IPv6Address("64:ff9b:1::")) | bits >> 16 << 64 | (bits & 0xFFFF) << 40,
        0x2002 << 112 | bits << 80,  # 6to4
        0x20010000 << 96 | (bits ^ 0xFFFF_FFFF),  # Teredo
        0x20010000 << 96 | bits << 64,
        int(IPv6Address(public)) | 0x0000_5EFE << 32 | bits,  # ISATAP
        int(IPv6Address(public)) | 0x0200_5EFE << 32 | bits,
    ]
    return [str(IPv6Address(form)) for form in forms]


@given(inner=st.ip_addresses(v=4), public=st.sampled_from(["2606:4700::", "2a00:1450:4001::"]))
def test_no_ipv6_form_that_embeds_an_ipv4_address_is_public(
    inner: IPv4Address, public: str
) -> None:
    for embedding in embeddings(inner, public):
        assert not is_allowed(embedding)


@pytest.mark.parametrize("inner", ["169.254.169.254", "168.63.129.16", "10.1.2.3"])
def test_a_network_of_embeddings_does_not_admit_what_may_not_be_embedded(inner: str) -> None:
    networks = [ip_network("::/0"), ip_network("192.168.0.0/16")]
    for embedding in embeddings(IPv4Address(inner), "2606:4700::"):
        assert not is_allowed(embedding, networks=networks), embedding


def test_a_network_that_has_ipv4_behind_nat64_can_be_allowed() -> None:
    nat64 = ip_network("64:ff9b::/96")
    public, private = "64:ff9b::5db8:d822", "64:ff9b::a01:203"
    assert is_allowed(public, networks=[nat64])
    assert not is_allowed(private, networks=[nat64])
    assert is_allowed(private, networks=[nat64, ip_network("10.0.0.0/8")])


@given(st.ip_addresses())
def test_only_what_python_calls_global_is_allowed(address: IPv4Address | IPv6Address) -> None:
    if is_allowed(str(address)):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "text", ["", "localhost", "2130706433", "127.1", "0x7f.1", "1.1.1.1/32", "::1%lo",
             "fd00:ec2::254%1", "2606:4700::1111%eth0"],
)  # fmt: skip
def test_what_is_not_a_plain_address_is_denied(text: str) -> None:
    assert not is_allowed(text, networks=EVERYTHING)
