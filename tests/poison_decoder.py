"""Decodes as the server does, in its real workers, but for content that tells it to misbehave."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipsearch_server import image
from clipsearch_server.errors import InvalidImage
from clipsearch_server.ports import DecodedImage

_PREFIX = b"GIF89a do: "  # recognised as an image


def poison(deed: str, salt: str = "") -> bytes:
    """Returns content that has `decode_image` do one of ``_DEEDS``."""
    return _PREFIX + f"{deed} {salt}".encode("ascii")


def decode_image(content: bytes, **options: Any) -> DecodedImage:
    if content.startswith(_PREFIX):
        deed, _, _ = content.removeprefix(_PREFIX).decode("ascii").partition(" ")
        _DEEDS[deed]()
    return image.decode_image(content, **options)


def _spin() -> None:
    while True:
        pass


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * 2**20)


def _break() -> None:
    raise RuntimeError("a bug")


def _probe() -> None:
    """Refuses the image with what a worker could do that it must not."""
    forbidden: dict[str, Callable[[], object]] = {
        "read a file": Path("/etc/hostname").read_bytes,
        "list a folder": lambda: os.listdir("/"),
        "make a folder": lambda: os.mkdir("/tmp/clipsearch-probe"),
        "make a socket": lambda: socket.socket(),
        "start a program": lambda: subprocess.run("true"),
        "signal its parent": lambda: os.kill(os.getppid(), 0),
    }
    done = []
    for name, act in forbidden.items():
        try:
            act()
        except OSError:
            continue
        done.append(name)
    raise InvalidImage(", ".join(done) or "nothing", reason="PROBED")


_DEEDS: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "crash": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(7),
    "spin": _spin,
    "hang": signal.pause,
    "eat": _eat,
    "break": _break,
    "probe": _probe,
}
