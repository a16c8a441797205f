"""What an operator lets the server fetch: by host, by port, and beyond public addresses."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from clipsearch_server.addresses import Network

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_LITERAL = re.compile(r"\[([0-9a-f:]+)\]|([0-9a-f:.]+)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """As it stands, the policy `public`: any host that has public addresses only.

    ``hosts`` narrows that to the hosts that a pattern names; ``networks`` widens it by addresses
    that are not public.
    """

    hosts: tuple[str, ...] = ()  # patterns, as `host_pattern` returns them; none: any host
    networks: tuple[Network, ...] = ()
    ports: tuple[range, ...] = (range(80, 81), range(443, 444))

    def allows_host(self, host: str) -> bool:
        """Returns whether a host, a name or an address in lower case, may be asked at all."""
        host = host.removesuffix(".")
        return not self.hosts or any(
            host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
            for pattern in self.hosts
        )

    def allows_port(self, port: int) -> bool:
        return any(port in ports for ports in self.ports)


def host_pattern(text: str) -> str:
    """Reads a host name, ``*.`` and a name for all names below it, or an address.

    Raises ValueError.
    """
    pattern = text.lower().removesuffix(".")
    if literal := _LITERAL.fullmatch(pattern):
        with suppress(ValueError):
            return str(ip_address(literal[1] or literal[2]))
    if len(pattern) > 253 or not _PATTERN.fullmatch(pattern) or is_numeric(pattern):
        raise ValueError(
            f"{text!r} is no host such as images.example.com, *.example.com or 192.0.2.1 "
            "(beyond ASCII: in Punycode)"
        )
    return pattern


def port_range(text: str) -> range:
    """Reads a port, or the first and the last of several with a hyphen between them.

    Raises ValueError.
    """
    match = _PORTS.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last < 65_536:
        raise ValueError(f"{text!r} is no port such as 443, nor several such as 8000-8099")
    return range(first, last + 1)


def is_numeric(host: str) -> bool:
    """Returns whether a host can only be an IPv4 address, however it is spelt: its last label is a
    number, which no top-level domain is."""
    return _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]) is not None
