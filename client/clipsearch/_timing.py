"""How long the server's stages took: the Server-Timing format of https://www.w3.org/TR/server-timing/."""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUOTED = re.compile(r'"([^"]*)"')
_NAME = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*(?:;|$)", re.ASCII)
_DURATION = re.compile(r";\s*dur\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:;|$)", re.ASCII)


def parse_server_timing(value: str) -> dict[str, float]:
    """Returns the milliseconds of each metric that has any; what is malformed is left out.

    >>> parse_server_timing('embed;dur=4.02, total;desc="all, in all";dur=5.1')
    {'embed': 4.02, 'total': 5.1}
    """
    timings = {}
    # A quoted description may hold the separators; a quoted number is a number.
    unquoted = _QUOTED.sub(lambda match: "" if set(match[1]) & set(",;") else match[1], value)
    for metric in unquoted.split(","):
        if (name := _NAME.match(metric)) and (duration := _DURATION.search(metric)):
            timings[name[1]] = float(duration[1])
    return timings


def timings_ms(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, float]:
    """Returns the stages that a call's trailing metadata tells; empty if it tells none."""
    timings: dict[str, float] = {}
    for key, value in trailing_metadata:
        if key == "server-timing" and isinstance(value, str):
            timings |= parse_server_timing(value)
    return timings
