"""Starts the workers, replaces those that end, and drains them all."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from clipsearch_server.cores import cores
from clipsearch_server.errors import StartupError
from clipsearch_server.metrics import WORKER_RESTARTS, WORKER_SERVING
from clipsearch_server.settings import Settings
from clipsearch_server.stopping import Stopping
from clipsearch_server.workers.port import reserved
from clipsearch_server.workers.shared_metrics import SharedMetrics, serving_shared_metrics

_SERVING = b"serving\n"  # what a worker says once it does
# A worker that ends is replaced at once if it had served for so long, and otherwise after a pause
# that doubles, so that one which cannot live costs little.
_SETTLED_S = 60.0
_MIN_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0

_log = logging.getLogger(__name__)


def workers_of(settings: Settings) -> int:
    """Returns how many processes are to serve."""
    return settings.workers or cores()


async def supervise(
    settings: Settings, workers: int, stopping: Stopping, *, on_serving: Callable[[str], None]
) -> bool:
    """Has ``workers`` processes serve on one port; calls ``on_serving`` with the address once all
    do. Returns, when ``stopping`` is set and all have drained, whether none failed to.

    Raises StartupError if one cannot start at first. One that ends later is replaced, for as long
    as it takes.
    """
    with reserved(settings.address) as address:
        async with serving_shared_metrics(settings.metrics.address, stopping) as metrics:
            each = settings_of_each(settings, workers, address)
            supervisor = _Supervisor(each, metrics, stopping)
            return await supervisor.run(workers, on_serving=lambda: on_serving(address))


def settings_of_each(settings: Settings, workers: int, address: str) -> Settings:
    """A worker's settings: it listens on the common port, decodes with its share of the processes,
    and leaves it to the parent to serve metrics. Bounds of calls and bytes are each worker's own,
    since a caller that has one connection has one worker."""
    decoders = (settings.image.decode_workers or cores()) // workers
    image = settings.image.model_copy(update={"decode_workers": max(1, decoders)})
    metrics = settings.metrics.model_copy(update={"address": ""})
    return settings.model_copy(update={"address": address, "image": image, "metrics": metrics})


class _Worker:
    """A process that serves."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.process = process
        self.since = asyncio.get_running_loop().time()
        self.served = False

    async def serving(self) -> None:
        """Returns once it serves. Raises StartupError with its reason if it ends instead."""
        assert self.process.stdout is not None
        said = await self.process.stdout.readline()
        if said != _SERVING:
            code = await self.process.wait()
            raise StartupError(
                said.decode().strip()
                or f"worker {self.number} ended before it served: {_ending(code)}"
            )
        self.served = True
        WORKER_SERVING.labels(self.number).set(1)

    def drain(self) -> None:
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()


class _Supervisor:
    def __init__(self, settings: Settings, metrics: SharedMetrics, stopping: asyncio.Event) -> None:
        self._settings = pickle.dumps(settings)
        self._metrics = metrics
        self._stopping = stopping
        self._workers: dict[int, _Worker] = {}

    async def run(self, count: int, *, on_serving: Callable[[], None]) -> bool:
        keepers: list[asyncio.Task[bool]] = []
        stopper = asyncio.create_task(self._stop(), name="stop workers")
        try:
            for number in range(1, count + 1):
                WORKER_RESTARTS.labels(number)  # shown from the start, at 0
                await self._start(number)
            try:
                await asyncio.gather(*(it.serving() for it in self._workers.values()))
            except StartupError:
                if self._stopping.is_set():  # told to stop before they served
                    return True
                raise
            on_serving()
            keepers = [asyncio.create_task(self._keep(it)) for it in self._workers.values()]
            drained = await asyncio.gather(*keepers)
            return all(drained)
        finally:
            for task in (stopper, *keepers):
                task.cancel()
            for worker in self._workers.values():
                worker.kill()  # those that are left
                await worker.process.wait()

    async def _start(self, number: int) -> _Worker:
        # Started in the thread of the event loop, not in another: it dies with the thread that
        # started it.
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "clipsearch_server.workers.process"),
                *("--number", str(number), "--parent", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, **self._metrics.environment},  # noqa: TID251 - passed on
            )
        except OSError as error:
            raise StartupError(
                f"the system has no process for worker {number}: {error.strerror}"
            ) from error
        worker = self._workers[number] = _Worker(number, process)
        assert process.stdin is not None
        with suppress(ConnectionError):  # it has ended, which is noticed elsewhere
            process.stdin.write(self._settings)
            await process.stdin.drain()
            process.stdin.close()
        if self._stopping.is_set():
            worker.drain()
        return worker

    async def _keep(self, worker: _Worker) -> bool:
        """Replaces a worker whenever it ends, until all are to stop; returns whether it drained."""
        pause_s = 0.0
        while True:
            code = await worker.process.wait()
            await self._metrics.forget(worker.process.pid)
            WORKER_SERVING.labels(worker.number).set(0)
            if self._stopping.is_set():
                if code and worker.served:
                    _log.error(
                        "worker=%d ended before it had drained: %s", worker.number, _ending(code)
                    )
                return not (code and worker.served)
            WORKER_RESTARTS.labels(worker.number).inc()
            lived_s = asyncio.get_running_loop().time() - worker.since
            if lived_s >= _SETTLED_S:
                pause_s = 0.0
            else:
                pause_s = min(max(2 * pause_s, _MIN_PAUSE_S), _MAX_PAUSE_S)
            _log.error(
                "worker=%d pid=%d ended: %s; replaced in %g s",
                *(worker.number, worker.process.pid, _ending(code), pause_s),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
                    return True
            try:
                worker = await self._start(worker.number)
                await worker.serving()
            except StartupError as error:
                _log.error("worker=%d cannot start: %s", worker.number, error)
                worker.since = asyncio.get_running_loop().time()

    async def _stop(self) -> None:
        await self._stopping.wait()
        _log.info("draining workers=%d", len(self._workers))
        for worker in self._workers.values():
            worker.drain()


def _ending(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
