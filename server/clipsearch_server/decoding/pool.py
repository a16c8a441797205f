"""Decodes in worker processes that are confined, killed when they take too long, and replaced."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Self

from clipsearch_server import formats
from clipsearch_server.cores import cores
from clipsearch_server.decoding.client import ForkServer, Worker, WorkerDied, WorkerLost
from clipsearch_server.decoding.protocol import Setup
from clipsearch_server.decoding.quarantine import Quarantine
from clipsearch_server.errors import (
    DecoderUnavailable,
    InvalidImage,
    Overloaded,
    StartupError,
)
from clipsearch_server.lateness import we_were_late
from clipsearch_server.metrics import DECODE_WORKER_RESTARTS, QUEUE_ROWS
from clipsearch_server.ports import DecodedImage
from clipsearch_server.priority import Places

# A worker that has taken this many times its processor time by the clock is killed: it hangs, or
# the machine is hopelessly busy.
_WALL_FACTOR = 4

# New workers that are lost, one after the other, before an image is given up on.
_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class WorkerPool:
    """The port `ImageDecoder`, on up to ``workers`` processes (0: one for each core).

    ``size_px``, ``resize_px``, ``resample`` and ``max_pixels`` are those of `image.decode_image`;
    ``max_bytes`` is the largest content there will be. One image may take ``memory_bytes`` and
    ``cpu_s`` seconds of processor time. ``max_waiting`` images may wait for a worker.

    An image whose decoding ends its worker is refused with IMAGE_DECODE_FAILED, and for a while the
    same content is refused without being tried. One whose worker is killed from outside, as the
    kernel does when memory is short, or that may have been decoded while the server itself was
    stopped, gets a second one first. Nothing is held against the callers
    of such images: a new worker takes milliseconds, and a breaker would let one stranger stop all
    others.

    ``function`` decodes, in the workers; it is given by its importable name.
    """

    def __init__(
        self,
        *,
        size_px: int,
        resize_px: int,
        resample: str,
        max_pixels: int,
        max_bytes: int,
        workers: int,
        memory_bytes: int,
        cpu_s: float,
        max_waiting: int,
        function: str = "clipsearch_server.image:decode_image",
    ) -> None:
        self._setup = Setup(
            function=function,
            size_px=size_px,
            resize_px=resize_px,
            resample=resample,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
            memory_bytes=memory_bytes,
            cpu_s=cpu_s,
        )
        self._workers = workers or cores()
        self._max_waiting = max_waiting
        self._places = Places(self._workers)
        self._waiting = 0
        self._idle: list[Worker] = []  # the last one used is taken first: its caches are warm
        self._server: ForkServer | None = None
        self._starting = asyncio.Lock()
        self._quarantine = Quarantine()
        for reason in ("lost", "killed", "memory", "cpu", "crashed", "hung", "caller_gone"):
            DECODE_WORKER_RESTARTS.labels(reason)  # seen before the first, which is an increase

    async def __aenter__(self) -> Self:
        """Raises StartupError if no worker can be started."""
        try:
            worker = await self._new_worker()
        except (DecoderUnavailable, WorkerLost) as error:
            await self._stop()
            raise StartupError(f"no image can be decoded: {error}") from error
        except BaseException:
            await self._stop()
            raise
        self._idle.append(worker)
        _log.info("decoding workers=%d confined_by=%s", self._workers, worker.confined_by)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def decode(self, content: bytes) -> DecodedImage:
        media_type = formats.recognise(content)
        await self._refuse_quarantined(content, media_type)
        async with self._place():
            await self._refuse_quarantined(content, media_type)  # by one decoded meanwhile
            return await self._decode(content, media_type)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting >= self._max_waiting and self._places.locked():
            raise Overloaded("too many images wait to be decoded; try again in a moment")
        self._waiting += 1
        try:
            with QUEUE_ROWS.labels("decode").track_inprogress():
                await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    async def _decode(self, content: bytes, media_type: str) -> DecodedImage:
        wall_s = _WALL_FACTOR * self._setup.cpu_s
        new_workers = 0
        was_killed = was_late = False
        while new_workers < _ATTEMPTS:
            worker = self._idle_worker()
            if worker is None:
                new_workers += 1
                try:
                    worker = await self._new_worker()
                except WorkerLost:
                    DECODE_WORKER_RESTARTS.labels("lost").inc()
                    continue
            start = monotonic()
            try:
                async with asyncio.timeout(wall_s):
                    decoded = await worker.decode(content)
            except InvalidImage:
                self._idle.append(worker)
                raise
            except WorkerLost:
                _end(worker, "lost")
                continue
            except WorkerDied as death:
                _end(worker, _reason(death.code))
                if death.code == -signal.SIGKILL and not was_killed:
                    was_killed = True
                    _log.warning("a decoder was killed from outside; its image is tried again")
                    continue
                cause = self._cause(death.code)
                how = "out of memory" if death.code is None else f"ended with {death.code}"
            except TimeoutError:
                _end(worker, "hung")
                if we_were_late(monotonic() - start, wall_s) and not was_late:
                    was_late = True
                    _log.warning("this process was stopped for a while; an image is tried again")
                    continue
                cause, how = f"takes more than {wall_s:g} s", f"killed after {wall_s:g} s"
            except BaseException:
                _end(worker, "caller_gone")
                raise
            else:
                self._idle.append(worker)
                return decoded
            sha256 = await asyncio.to_thread(_sha256, content)
            self._quarantine.add(sha256, len(content), cause)
            _log.warning(
                "an image ended its decoder (%s) media_type=%s size_bytes=%d sha256=%s",
                *(how, media_type, len(content), sha256),
            )
            raise _failed(media_type, cause)
        raise DecoderUnavailable("the decoders end before they begin; try again in a moment")

    async def _refuse_quarantined(self, content: bytes, media_type: str) -> None:
        if self._quarantine.may_hold(len(content)):
            cause = self._quarantine.cause(await asyncio.to_thread(_sha256, content))
            if cause is not None:
                raise _failed(media_type, cause)

    def _cause(self, code: int | None) -> str:
        if code is None:
            return f"takes more than {self._setup.memory_bytes // 2**20:,} MiB of memory"
        if code == -signal.SIGPROF:
            return f"takes more than {self._setup.cpu_s:g} s of processor time"
        return "made the decoder fail"

    def _idle_worker(self) -> Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            _end(worker, "lost")  # it may only have closed its channel
        return None

    async def _new_worker(self) -> Worker:
        async with self._starting:
            if self._server is None or not self._server.is_alive:
                await self._stop()
                self._server = await ForkServer.start(self._setup)
            server = self._server
        return await server.fork()

    async def _stop(self) -> None:
        while self._idle:
            self._idle.pop().close()
        if self._server is not None:
            await self._server.stop()
            self._server = None


def _end(worker: Worker, reason: str) -> None:
    """Ends a worker, which another takes the place of."""
    DECODE_WORKER_RESTARTS.labels(reason).inc()
    worker.kill()


def _reason(code: int | None) -> str:
    """What ended a worker, by its exit code."""
    if code is None:
        return "memory"
    return {-signal.SIGPROF: "cpu", -signal.SIGKILL: "killed"}.get(code, "crashed")


def _failed(media_type: str, cause: str) -> InvalidImage:
    return InvalidImage(
        f"the {formats.name(media_type)} image {cause}, and was not decoded; save it again with "
        "ordinary settings, or smaller",
        reason="IMAGE_DECODE_FAILED",
        media_type=media_type,
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
