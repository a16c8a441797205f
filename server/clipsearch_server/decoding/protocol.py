"""What the server, its fork server and the workers tell each other: a JSON object a line.

Never pickles: a worker that an image has taken over must not have the server run anything.

To the fork server, ``Fork`` comes with the worker's two descriptors: its socket and its `Area`. The
fork server says when a worker has ended. On a worker's own socket, the server asks for one image
after the other; the worker says when it is ready, and how each went. That it has begun with one it
notes in its area, which wakes nobody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias, get_type_hints

MAX_LINE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a fork server is told when it is started."""

    function: str  # "module:name" of what decodes: see `image.decode_image`
    size_px: int
    resize_px: int
    resample: str
    max_pixels: int
    max_bytes: int
    memory_bytes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Fork:
    """To the fork server: make a worker, to be known by this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """To the fork server: end a worker at once."""

    number: int


@dataclass(frozen=True, slots=True)
class Ended:
    """From the fork server: a worker has ended, with an exit code, or of a signal (negative)."""

    number: int
    code: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker, once: it is confined and waits; from the fork server, once: it can fork."""

    pid: int
    confined_by: str = ""


@dataclass(frozen=True, slots=True)
class Decode:
    """To a worker: decode the image of so many bytes that is in its area."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """From a worker: the pixels are in its area."""

    media_type: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Refused:
    """From a worker: the image is not taken. What `InvalidImage` is built from."""

    message: str
    reason: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """From a worker, which ends then: the image takes more memory than it may have."""


Message: TypeAlias = Fork | Kill | Ended | Ready | Decode | Decoded | Refused | OutOfMemory

_TYPES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (Fork, Kill, Ended, Ready, Decode, Decoded, Refused, OutOfMemory)
}
_HINTS = {kind: get_type_hints(kind) for kind in _TYPES.values()}
_MAX_INT = 2**31 - 1


def line(message: Message) -> bytes:
    """Writes a message."""
    kind = type(message)
    fields = {name: getattr(message, name) for name in _HINTS[kind]}
    return json.dumps([kind.__name__, fields]).encode("ascii") + b"\n"


def parse(data: bytes) -> Message:
    """Reads a message. Raises ValueError if it is none: who sent it may be taken over."""
    try:
        name, fields = json.loads(data)
        message = _TYPES[name](**fields)
        hints = _HINTS[type(message)]
        if all(_is_a(hints[field], value) for field, value in fields.items()):
            return message
    except (KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"not a message: {data[:100]!r}")


def _is_a(kind: object, value: object) -> bool:
    """Says whether a value is what a field is declared as, and fit to be told to a caller."""
    match value:
        case bool():
            return False
        case int():
            return kind is int and abs(value) <= _MAX_INT
        case str():
            return kind is str and value.isprintable()
        case dict():
            return kind == dict[str, str] and all(
                _is_a(str, text) for item in value.items() for text in item
            )
    return False
