"""One process that serves, from its settings to the end of its drain."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import sys
from collections.abc import Callable

from clipsearch_server.app import open_app
from clipsearch_server.settings import Settings

logger = logging.getLogger("clipsearch_server")


async def serve(
    settings: Settings,
    stopping: asyncio.Event,
    *,
    shares_port: bool = False,
    on_serving: Callable[[str], None],
) -> None:
    """Calls ``on_serving`` with the address once it serves, and drains when ``stopping`` is set.

    ``shares_port``: other processes that say so too may listen on the port. Raises StartupError and
    ModelMismatch if it cannot start as configured.
    """
    _take_all_descriptors()
    # So long do the event loop, and the thread that embeds a text, wait for a thread of a bulk load
    # to let go of the interpreter, and more than once on the way of a query; Python's own is 5 ms.
    sys.setswitchinterval(0.0005)
    async with open_app(settings, shares_port=shares_port) as app:
        # What starting made stays for good. Collecting garbage, which stops the event loop, need
        # not look at it again: 25 to 56 ms each time (measured in bench/index_optimize.py).
        gc.collect()
        gc.freeze()
        _give_memory_back()
        on_serving(app.address)
        await stopping.wait()
        logger.info("draining grace_s=%g", settings.grace_s)
        await app.drain()
    logger.info("stopped")


def _give_memory_back() -> None:
    """What starting took and freed again: glibc keeps it, of a model in one file as much as that
    takes. Other C libraries have no such call."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _take_all_descriptors() -> None:
    """Lets this process open as many files as it may. What most systems give at first, 1024, is
    for programs that use select(2); a connection or a segment of the index takes one each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
