"""A worker: a fork of the fork server that decodes one image after the other, confined."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from clipsearch_server.decoding.area import Area
from clipsearch_server.decoding.protocol import (
    Decode,
    Decoded,
    Message,
    OutOfMemory,
    Ready,
    Refused,
    Setup,
    line,
    parse,
)
from clipsearch_server.decoding.sandbox import confine
from clipsearch_server.errors import InvalidImage
from clipsearch_server.ports import DecodedImage


def serve(
    function: Callable[..., DecodedImage],
    setup: Setup,
    channel: socket.socket,
    descriptor: int,
) -> None:
    """Confines this process, then decodes what it is asked to until the channel is closed."""
    area = Area(descriptor, (3, setup.size_px, setup.size_px), setup.max_bytes)
    _silence()
    # On SIGPROF's arrival a process ends, unless it has said otherwise.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    confined_by = confine(memory_bytes=setup.memory_bytes)
    requests = channel.makefile("rb")
    channel.sendall(line(Ready(os.getpid(), confined_by)))
    for request in requests:
        match parse(request):
            case Decode(size_bytes):
                area.has_begun = True
                answer = _decode(function, setup, area, size_bytes)
                channel.sendall(line(answer))
                if isinstance(answer, OutOfMemory):
                    return  # in what state, is anybody's guess


def _decode(
    function: Callable[..., DecodedImage], setup: Setup, area: Area, size_bytes: int
) -> Message:
    # Counts this process's own time: a machine that is busy with others does not make an image bad.
    signal.setitimer(signal.ITIMER_PROF, setup.cpu_s)
    try:
        decoded = function(
            area.content(size_bytes),
            size_px=setup.size_px,
            resize_px=setup.resize_px,
            resample=setup.resample,
            max_pixels=setup.max_pixels,
        )
        area.put_pixels(decoded.pixels)
    except InvalidImage as error:
        return Refused(error.message, error.reason, error.metadata)
    except MemoryError:
        return OutOfMemory()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return Decoded(decoded.media_type, decoded.width_px, decoded.height_px)


def _silence() -> None:
    """What a decoder's library prints may be a stranger's text, and must not look like our log."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
