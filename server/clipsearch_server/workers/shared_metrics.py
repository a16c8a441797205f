"""The metrics of all workers together: each writes its own to a folder, from which the parent
answers Prometheus, in prometheus_client's multiprocess mode; and what the parent knows of them."""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import shutil
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from tempfile import mkdtemp
from threading import Lock

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, multiprocess
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.registry import Collector

from clipsearch_server.metrics import WORKER_RESTARTS, WORKER_SERVING
from clipsearch_server.metrics_endpoint import serve_metrics
from clipsearch_server.stopping import Stopping

_log = logging.getLogger(__name__)

# Of these a process that ended leaves what it counted. The first word of a file's name is its type.
_LASTING = ("counter", "histogram", "summary")

# The files are mapped: on a disk that is full, who wrote to one would die of SIGBUS.
_MEMORY = "/dev/shm"


class SharedMetrics(Collector):
    """A folder of metrics; of none, if nobody asks for them."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        self._changing = Lock()  # scrapes are answered in threads

    @property
    def environment(self) -> Mapping[str, str]:
        """What a worker's environment must hold before it imports prometheus_client."""
        return {"PROMETHEUS_MULTIPROC_DIR": self._folder} if self._folder else {}

    def collect(self) -> Iterable[Metric]:
        with self._changing:
            return _merged(glob.glob(os.path.join(self._folder, "*.db")), accumulate=True)

    async def forget(self, worker: int) -> None:
        """Leaves out what a process that ended says of the present. What it counted stays, in one
        file for all that ended; if it cannot be read, it is lost."""
        if not self._folder:
            return
        try:
            await asyncio.to_thread(self._forget, worker)
        # Of a file that is not whole, as its process was killed while making it: struct.error,
        # RuntimeError, or ValueError for what is no JSON or UTF-8; of the system, OSError, or
        # RuntimeError if there is no thread to be had. The workers that serve go on.
        except (struct.error, RuntimeError, ValueError, OSError) as error:
            _log.error("counts of worker pid=%d are lost: %r", worker, error)

    def _forget(self, worker: int) -> None:
        with self._changing:
            try:
                for kind in _LASTING:
                    of_worker = os.path.join(self._folder, f"{kind}_{worker}.db")
                    if os.path.exists(of_worker):
                        _add(of_worker, os.path.join(self._folder, f"{kind}_ended.db"))
            finally:
                for file in glob.glob(os.path.join(self._folder, f"*_{worker}.db")):
                    os.remove(file)


def _merged(files: Iterable[str], *, accumulate: bool) -> Iterable[Metric]:
    merge = multiprocess.MultiProcessCollector.merge
    metrics: Iterable[Metric] = merge(files, accumulate)  # type: ignore[no-untyped-call]
    return metrics


def _add(one: str, total: str) -> None:
    """Adds a file's counts to those of another, which need not be there."""
    metrics = _merged([one, *glob.glob(total)], accumulate=False)
    sums = MmapedDict(total)  # type: ignore[no-untyped-call]
    for metric in metrics:
        for sample in metric.samples:
            key = mmap_key(
                metric.name,
                sample.name,
                list(sample.labels),
                list(sample.labels.values()),
                metric.documentation,
            )
            sums.write_value(key, sample.value, 0.0)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]


def _make_folder() -> str:
    memory = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    return mkdtemp(prefix="clipsearch-metrics-", dir=memory)


@asynccontextmanager
async def serving_shared_metrics(address: str, stopping: Stopping) -> AsyncIterator[SharedMetrics]:
    """Serves the workers' metrics at host:port; none, if that is empty. Raises StartupError."""
    if not address:
        yield SharedMetrics()
        return
    # Made and deleted in a thread, with the files that are in it.
    folder = await asyncio.to_thread(_make_folder)

    def delete() -> None:
        shutil.rmtree(folder, ignore_errors=True)  # a worker may still write to it

    stopping.call_before_exit(delete)
    try:
        metrics = SharedMetrics(folder)
        registry = CollectorRegistry()
        registry.register(metrics)
        registry.register(WORKER_RESTARTS)
        registry.register(WORKER_SERVING)
        ProcessCollector(registry=registry)
        async with serve_metrics(address, registry) as taken:
            _log.info("metrics address=%s", taken)
            yield metrics
    finally:
        await asyncio.to_thread(delete)
