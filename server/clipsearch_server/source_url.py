"""The URLs that images may be fetched from, as far as their text can tell.

What different parsers read differently (backslashes, white space, control characters, brackets) is
refused before the one parser used here sees it, and what is connected to is what it found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Self
from urllib.parse import urljoin, urlsplit

from clipsearch_server.errors import InvalidRequest, SourceNotAllowed
from clipsearch_server.fetch_policy import FetchPolicy

MAX_URL_BYTES = 2048

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRINTABLE_ASCII = re.compile(r"[!-\[\]-~]+")  # without space and backslash
_AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-][a-z0-9._-]*))(?::(?P<port>[0-9]{0,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUrl:
    """A URL that passed every check that needs no network."""

    scheme: str  # "http" or "https"
    host: str  # lower case; an IPv6 address without brackets
    port: int
    target: str  # path and query: what HTTP asks for
    text: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who is asked: what a caller means for one origin goes to no other."""
        return self.scheme, self.host, self.port

    @classmethod
    def parse(cls, text: str, policy: FetchPolicy, *, base: str = "") -> Self:
        """Reads a URL, which may be relative to a base.

        Raises InvalidRequest (URL_MALFORMED, URL_SCHEME_NOT_ALLOWED, URL_USERINFO or
        URL_PORT_NOT_ALLOWED), and SourceNotAllowed if the policy does not name the host.
        """
        if len(text) > MAX_URL_BYTES:
            raise _refused("MALFORMED", f"the URL has more than {MAX_URL_BYTES:,} bytes")
        if not _PRINTABLE_ASCII.fullmatch(text):
            raise _refused(
                "MALFORMED",
                "the URL is empty or has spaces, backslashes or characters other than printable "
                "ASCII, which must be percent-encoded (in a host name: Punycode)",
            )
        try:
            text = urljoin(base, text)
            parts = urlsplit(text)
        except ValueError as error:
            raise _refused("MALFORMED", "the URL is not well-formed") from error
        if parts.scheme not in _DEFAULT_PORTS:
            raise _refused("SCHEME_NOT_ALLOWED", "the URL's scheme must be http or https")
        if "@" in parts.netloc:
            raise _refused("USERINFO", "the URL must not hold a user name or password")
        authority = _AUTHORITY.fullmatch(parts.netloc.lower())
        if authority is None:
            raise _refused("MALFORMED", "the URL has no valid host")
        port = int(authority["port"] or _DEFAULT_PORTS[parts.scheme])
        if not policy.allows_port(port):
            raise _refused("PORT_NOT_ALLOWED", "the URL's port is not one to fetch images from")
        host = authority["name"] or _ipv6(authority["ipv6"])
        if not policy.allows_host(host):
            raise SourceNotAllowed()
        return cls(
            scheme=parts.scheme,
            host=host,
            port=port,
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            text=text,
        )


def _ipv6(literal: str) -> str:
    try:
        return str(IPv6Address(literal))
    except ValueError as error:
        raise _refused("MALFORMED", "the URL's host in brackets is no IPv6 address") from error


def _refused(what: str, message: str) -> InvalidRequest:
    return InvalidRequest("url", message, reason=f"URL_{what}")
