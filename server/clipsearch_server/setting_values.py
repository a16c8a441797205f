"""The kinds of values that settings have, checked as they are read.

What they raise is read by whoever starts the server, after the name of the setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from clipsearch_server.addresses import Network, is_never_allowed
from clipsearch_server.fetch_policy import host_pattern, port_range


def _host_and_port(value: str) -> str:
    """Accepts host:port and [IPv6]:port."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):(\d{1,5})", value)
    if match is None or int(match[2]) > 65_535:
        raise ValueError("expected host:port, for example 127.0.0.1:50051")
    return value


def _or_none(check: Callable[[str], str]) -> Callable[[str], str]:
    """Accepts nothing too."""
    return lambda value: value and check(value)


def is_collection_name(value: str) -> bool:
    """Whether it is a safe file name: on Edge, a collection is a folder."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None


def _collection_name(value: str) -> str:
    if not is_collection_name(value):
        raise ValueError("expected up to 64 letters, digits, -, _ and ., the first no sign")
    return value


def _grpc_url(value: str) -> str:
    """Accepts http://host:port and https://host:port, without anything else."""
    try:
        url = urlsplit(value)
        plain = url.hostname is not None and url.port != 0 and "@" not in url.netloc
    except ValueError:  # of the port, or an IPv6 address without its end
        plain = False
    if (
        not plain
        or url.scheme not in {"http", "https"}
        or url.path.strip("/")
        or (url.query or url.fragment)
    ):
        raise ValueError("expected http://host:port or https://host:port")
    return value


def _collector_url(value: str) -> str:
    """Accepts what `_grpc_url` does, with a port: without one gRPC takes 443, and no collector
    listens there."""
    if urlsplit(_grpc_url(value)).port is None:
        raise ValueError("expected the port too, for example http://host:4317")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    """Accepts what an HTTP header may hold; gRPC would print any other when it refuses it."""
    if not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("expected printable ASCII without spaces or line ends")
    return value


def _proxy_url(value: str) -> str:
    """Accepts http://host:port, with a user and a password before the host or without."""
    try:
        url = urlsplit(value)
        plain = bool(url.hostname) and bool(url.port) and url.scheme == "http"
    except ValueError:  # of the port, or an IPv6 address without its end
        plain = False
    if value and (not plain or url.path.strip("/") or url.query or url.fragment):
        raise ValueError("expected http://host:port or http://user:password@host:port")
    return value


def _listed(value: object) -> object:
    """Takes a text for a list: flags and variables have commas between what they list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")] if value.strip() else []
    return value


def _network(value: object) -> Network:
    """Accepts a network such as 10.0.0.0/8; a number, which Python takes too, is a slip."""
    network = ip_network(str(value))
    if is_never_allowed(network):
        raise ValueError("nothing is fetched from there, whatever is allowed: see docs/fetching.md")
    return network


def _ports(value: object) -> object:
    """Accepts a port or several, as a text or a number."""
    port_range(str(value))
    return str(value)


HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
CollectionName = Annotated[str, AfterValidator(_collection_name)]
HostAndPortOrNone = Annotated[str, AfterValidator(_or_none(_host_and_port))]
GrpcUrl = Annotated[str, AfterValidator(_grpc_url)]
CollectorUrlOrNone = Annotated[str, AfterValidator(_or_none(_collector_url))]
ProxyUrl = Annotated[str, AfterValidator(_proxy_url)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
Folders = Annotated[tuple[Path, ...], BeforeValidator(_listed)]
Hosts = Annotated[
    tuple[Annotated[str, AfterValidator(host_pattern)], ...], BeforeValidator(_listed)
]
Networks = Annotated[
    tuple[Annotated[Network, BeforeValidator(_network)], ...], BeforeValidator(_listed)
]
Ports = Annotated[
    tuple[Annotated[str, BeforeValidator(_ports)], ...],
    BeforeValidator(_listed),
    Field(min_length=1),
]
