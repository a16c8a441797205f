"""Serves the metrics to Prometheus, and measures what only somebody who asks needs to know."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clipsearch_server import metrics
from clipsearch_server.errors import ClipsearchError, StartupError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

# What waits for the index is shown without it, well before Prometheus gives up on the scrape.
_COUNT_S = 2.0
_LAG_INTERVAL_S = 0.25

Counts = Callable[[], Awaitable[Mapping[str, int]]]


@asynccontextmanager
async def serve_metrics(address: str, registry: CollectorRegistry = REGISTRY) -> AsyncIterator[str]:
    """Serves ``/metrics`` at host:port for as long as the block lasts; yields the address, with the
    port that was taken. Raises StartupError if it cannot be."""
    host, _, port = address.rpartition(":")
    try:
        # In a thread: it may ask the system's resolver.
        server, thread = await asyncio.to_thread(
            start_http_server, int(port), host.strip("[]"), registry
        )
    except OSError as error:
        raise StartupError(
            f"cannot serve metrics on {address}: it is taken, or not an address of this machine; "
            "choose another with --metrics-address"
        ) from error
    server.set_app(_logged(make_wsgi_app(registry)))
    server.handle_error = _log_cut_short  # type: ignore[assignment, method-assign]
    try:
        yield f"{host}:{server.server_port}"
    finally:
        await asyncio.to_thread(_stop, server, thread)


@contextmanager
def counting_images(counts: Counts) -> Iterator[None]:
    """Has whoever looks at the metrics in this block see how many images each collection has."""
    images = _CollectionImages(counts, asyncio.get_running_loop())
    REGISTRY.register(images)
    try:
        yield
    finally:
        REGISTRY.unregister(images)


async def measure_lag() -> None:
    """Notes how late the event loop is, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL_S
        await asyncio.sleep(_LAG_INTERVAL_S)
        metrics.EVENT_LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))


class _CollectionImages(Collector):
    """Asks the event loop from the thread that answers a scrape. An index that is away, or slow,
    shows no numbers: there are none to rely on."""

    def __init__(self, counts: Counts, loop: asyncio.AbstractEventLoop) -> None:
        self._counts = counts
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            metrics.COLLECTION_IMAGES, "Images of a collection", labels=["collection"]
        )
        counting = asyncio.run_coroutine_threadsafe(self._count(), self._loop)
        try:
            counts = counting.result(2 * _COUNT_S)
        except TimeoutError:  # the loop is stuck: its lag, measured no more, is what tells
            counting.cancel()
            counts = {}
        except CancelledError:  # the server stops
            counts = {}
        for name, count in counts.items():
            family.add_metric([name], count)
        yield family

    def describe(self) -> Iterator[Metric]:
        """Without counting: asked for when it is registered."""
        yield GaugeMetricFamily(metrics.COLLECTION_IMAGES, "", labels=["collection"])

    async def _count(self) -> Mapping[str, int]:
        try:
            async with asyncio.timeout(_COUNT_S):
                return await self._counts()
        except (ClipsearchError, TimeoutError):
            return {}
        except Exception:
            _log.exception("cannot count the images of the collections")
            return {}


def _logged(show: WSGIApplication) -> WSGIApplication:
    """Has an error logged as others are: wsgiref would print it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return show(environ, start_response)
        except Exception:
            _log.exception("the metrics cannot be shown")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the metrics cannot be shown: see the log\n"]

    return app


def _log_cut_short(request: object, address: object) -> None:
    """For whoever asks and does not wait for the answer."""
    _log.info("a scrape was cut short: %r", sys.exception())


def _stop(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
