"""What an operator writes about hosts and ports means what it says, or is refused."""

from __future__ import annotations

import pytest

from clipsearch_server.fetch_policy import FetchPolicy, host_pattern, is_numeric, port_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Images.Example.COM", "images.example.com"),
        ("example.com.", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("minio", "minio"),
        ("my_store.internal", "my_store.internal"),
        ("xn--caf-dma.example", "xn--caf-dma.example"),
        ("10.1.2.3", "10.1.2.3"),
        ("2606:4700:0::1111", "2606:4700::1111"),
        ("[2606:4700::1111]", "2606:4700::1111"),
    ],
)
def test_host_patterns(text: str, expected: str) -> None:
    assert host_pattern(text) == expected
    assert host_pattern(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", ".", "a..b", "-a.example", "a-.example", "*.*.example", "a.*", "*a.example",
     "caf\u00e9.example", "a b", "https://a.example", "a.example:443", "a.example/x", "10.0.0.0/8",
     "127.1", "2130706433", "*.0.0.1", "0x7f.1", "[::1", "[a]", "fe80::1%eth0", "a" * 64,
     "a." * 130],
)  # fmt: skip
def test_what_is_no_host_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        host_pattern(text)


def test_without_patterns_every_host_passes() -> None:
    assert FetchPolicy().allows_host("a.example")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("443", range(443, 444)), ("8000-8099", range(8000, 8100)), ("1-65535", range(1, 65_536))],
)
def test_ports(text: str, expected: range) -> None:
    assert port_range(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "80-", "-80", "90-80", "http", "\u0661", "1-2-3"]
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match="is no port"):
        port_range(text)


def test_ports_that_are_allowed() -> None:
    policy = FetchPolicy(ports=(range(443, 444), range(8000, 8002)))
    allowed = [port for port in range(65_536) if policy.allows_port(port)]
    assert allowed == [443, 8000, 8001]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "017700000001", "1.2.3.0x4",
                                  "2130706433", "127.0.0.1.", "a.b.7", "0x"])  # fmt: skip
def test_a_host_whose_last_label_is_a_number_is_an_address(host: str) -> None:
    assert is_numeric(host)


@pytest.mark.parametrize("host", ["a.example", "1.2.3.4.example", "0xg", "7a", "a.example."])
def test_other_hosts_are_names(host: str) -> None:
    assert not is_numeric(host)
