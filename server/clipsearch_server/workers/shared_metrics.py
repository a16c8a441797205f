"""The metrics of all workers together: each writes its own to a folder, from which the parent
answers Prometheus, in prometheus_client's multiprocess mode; and what the parent knows of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry, ProcessCollector, multiprocess

from clipsearch_server.metrics import WORKER_RESTARTS, WORKER_SERVING
from clipsearch_server.metrics_endpoint import serve_metrics

_log = logging.getLogger(__name__)


class SharedMetrics:
    """A folder of metrics; of none, if nobody asks for them."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder

    @property
    def environment(self) -> Mapping[str, str]:
        """What a worker's environment must hold before it imports prometheus_client."""
        return {"PROMETHEUS_MULTIPROC_DIR": self._folder} if self._folder else {}

    def forget(self, worker: int) -> None:
        """Leaves out what a process that ended says of the present; what it counted stays."""
        if self._folder:
            multiprocess.mark_process_dead(worker, self._folder)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def serving_shared_metrics(address: str) -> AsyncIterator[SharedMetrics]:
    """Serves the workers' metrics at host:port; none, if that is empty. Raises StartupError."""
    if not address:
        yield SharedMetrics()
        return
    # Made and deleted in a thread, with the files that are in it.
    folder = await asyncio.to_thread(TemporaryDirectory, prefix="clipsearch-metrics-")
    try:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, folder.name)  # type: ignore[no-untyped-call]
        registry.register(WORKER_RESTARTS)
        registry.register(WORKER_SERVING)
        ProcessCollector(registry=registry)
        async with serve_metrics(address, registry) as taken:
            _log.info("metrics address=%s", taken)
            yield SharedMetrics(folder.name)
    finally:
        await asyncio.to_thread(folder.cleanup)
