"""Decodes as the server does, in its real workers, but for content that tells it to misbehave."""

from __future__ import annotations

import ctypes
import inspect
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


def _name_variables() -> None:
    raise InvalidImage(" ".join(os.environ), reason="PROBED")  # noqa: TID251 - what is there


def _channel() -> socket.socket:
    """Returns the worker's end of its channel, as code that has taken the worker over would."""
    frame = inspect.currentframe()
    while frame is not None and "channel" not in frame.f_locals:
        frame = frame.f_back
    assert frame is not None
    channel = frame.f_locals["channel"]
    assert isinstance(channel, socket.socket)
    return channel


def _say(data: bytes, *, hang_up: bool = False) -> Callable[[], object]:
    """Makes a deed of saying something, and then being busy for ever."""

    def deed() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel = _channel()
        channel.sendall(data)
        if hang_up:
            channel.shutdown(socket.SHUT_RDWR)
        _spin()

    return deed


_DONE = b'["Decoded", {"media_type": "image/gif", "width_px": 1, "height_px": 1}]\n'

_DEEDS: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "crash": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(7),
    "spin": _spin,
    "hang": signal.pause,
    "eat": _eat,
    "break": _break,
    "probe": _probe,
    "name-variables": _name_variables,
    "say-nothing-known": _say(b'["Obey", {}]\n'),
    "say-too-much": _say(b"x" * 200_000),
    "say-deep-nesting": _say(b"[" * 60_000 + b"\n"),
    "say-no-numbers": _say(_DONE.replace(b"1", b'"1"')),
    "say-no-texts": _say(b'["Refused", {"message": 1, "reason": 2, "metadata": [3]}]\n'),
    "say-untimely": _say(b'["Ready", {"pid": 1, "confined_by": ""}]\n'),
    "answer-and-hang-up": _say(_DONE, hang_up=True),
    "answer-ahead": _say(_DONE * 2),
}
