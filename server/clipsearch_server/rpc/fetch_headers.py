"""The request headers that a caller gives for the host of a URL: which are taken, and which are not
a caller's to set.

They hold secrets: no message shows more of one than the name of a header that everybody knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipsearch_server.errors import InvalidRequest

MAX_HEADERS = 16
MAX_HEADERS_BYTES = 8_192

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?|")  # section 5.5, without what is not ASCII

# What decides whom the request reaches, how it is framed and read, what kind of answer comes, and
# who is said to ask.
_RESERVED = frozenset(
    {"accept-encoding", "connection", "date", "expect", "forwarded", "host", "http2-settings",
     "keep-alive", "range", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via"}
)  # fmt: skip
_RESERVED_PREFIXES = ("content-", "if-", "proxy-", "sec-")


def fetch_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Checks the headers. Raises InvalidRequest."""
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > MAX_HEADERS or size > MAX_HEADERS_BYTES:
        raise _refused(
            f"are more than {MAX_HEADERS}, or of more than {MAX_HEADERS_BYTES:,} bytes together"
        )
    names = [name.lower() for name in headers]
    if not all(map(_TOKEN.fullmatch, names)):
        raise _refused("have a name that is none of HTTP: letters, digits and -, without a colon")
    for name in names:
        if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
            raise _refused(f"include {name[:40]!r}, which is for the server to set; leave it out")
    if len(set(names)) < len(names):
        raise _refused("name one header twice, in upper and lower case")
    if not all(map(_VALUE.fullmatch, headers.values())):
        raise _refused(
            "have a value with a line end, a character beyond ASCII, or white space around it"
        )
    return dict(headers)


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest("fetch_headers", message)
