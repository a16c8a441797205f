"""The shard that answers: keeps its process running, and has its search graph built."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from clipsearch_server.errors import (
    ClipsearchError,
    DeadlineExceeded,
    IndexUnavailable,
    OutcomeUnknown,
    StorageFull,
)
from clipsearch_server.indexes.edge.changes import Changes
from clipsearch_server.indexes.edge.client import EdgeProcess
from clipsearch_server.indexes.edge.folder import CollectionFolder
from clipsearch_server.indexes.edge.protocol import (
    CopyPage,
    CreateIndex,
    GetStats,
    Ordered,
    Read,
    Stats,
)
from clipsearch_server.indexes.edge.rebuild import rebuild
from clipsearch_server.indexes.fields import without_index
from clipsearch_server.indexes.tasks import cancel
from clipsearch_server.metrics import INDEX_PROCESS_RESTARTS
from clipsearch_server.ports import IndexedField, Revision

_log = logging.getLogger(__name__)

# Between an index process's death and its next start; doubled after each start that fails, and
# after each process that lived for less than the longest.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0

# Building the graph takes time in proportion to all points. Waiting until a fifth of them are new
# bounds the cost per added point, while a search still reaches most points through the graph.
_NEW_FRACTION = 5

# An index on a field stops the process for 15 to 50 us a point. Up to so many points it is created
# in place; a larger shard gets it with the next graph, which is then due.
_IN_PLACE_POINTS = 20_000


class LiveShard:
    """The current shard of a collection's folder, in whichever process has it.

    Entering raises StartupError if the shard cannot be opened. Once open, a process that dies is
    started again; until then calls raise IndexUnavailable.
    """

    def __init__(
        self,
        folder: CollectionFolder,
        *,
        lock: int,  # descriptor that every process inherits
        embedding_dim: int,
        indexed_fields: Sequence[IndexedField],
        optimize_after_points: int,
        timeout_s: float,
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._embedding_dim = embedding_dim
        self._fields = tuple(indexed_fields)
        self._optimize_after_points = optimize_after_points
        self._timeout_s = timeout_s
        self._process: EdgeProcess
        self._changes = Changes()
        self._keeper: asyncio.Task[None]
        self._optimizing: asyncio.Task[None] | None = None
        self._points_until_check = 0  # so many upserts may come before optimising can be due
        self._upserted = 0  # since the shard was built, or opened

    async def __aenter__(self) -> Self:
        self._process = await self._start()
        try:
            await asyncio.to_thread(self._folder.remove_garbage)
            try:
                await self._create_indexes_in_place()
            except StorageFull as error:
                _log.warning("filters are slow as long as the disk is full: %s", error)
        except BaseException:
            await self._process.kill()
            raise
        self.note_added(0)
        self._keeper = asyncio.create_task(self._keep_running(), name="edge-keeper")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Callers have had their answers. Stops the processes."""
        await cancel(self._keeper)
        await cancel(self._optimizing)
        await self._process.stop()

    @property
    def abandoned(self) -> int:
        """How many requests the process has to answer whose callers have gone."""
        return self._process.abandoned

    @property
    def revision(self) -> Revision | None:
        """Stands for what the shard holds; None while that may change."""
        return self._process.revision

    async def read(self, request: Read | CopyPage) -> Any:
        """Returns the request's answer. Raises what EdgeProcess.call raises."""
        return await self._process.call(request, self._timeout_s)

    async def write(self, ids: Sequence[UUID], request: Ordered) -> None:
        """Carries out a request that writes these ids. Raises what EdgeProcess.call raises, but for
        one that is not answered in time OutcomeUnknown: it is carried out once the process gets to
        it."""
        await self._changes.admit(ids)
        try:
            await self._process.call(request, self._timeout_s)
        except DeadlineExceeded as error:
            raise OutcomeUnknown(
                f"{error.message}, so the write may be made or not; repeating it by the same id is "
                "safe"
            ) from error

    def note_added(self, count: int) -> None:
        """Tells that points were upserted; has the graph built if enough are new."""
        self._upserted += count
        self._points_until_check -= count
        if self._points_until_check <= 0 and (self._optimizing is None or self._optimizing.done()):
            self._begin(self._optimize_if_due())

    async def optimize(self) -> None:
        """Builds the search graph over everything stored so far.

        Raises StorageFull if there is no room for it, IndexUnavailable if a process died.
        """
        while self._optimizing is not None:
            await asyncio.wait({self._optimizing})
        task = self._begin(self._optimize())
        await asyncio.wait({task})
        if task.cancelled():
            raise IndexUnavailable("the index process died, and the search graph was not built")
        task.result()

    async def add_indexed_fields(self, fields: Sequence[IndexedField]) -> None:
        """Returns when there are complete indexes on these fields. Raises what optimize does."""
        self._fields += tuple(without_index(fields, (field.field for field in self._fields)))
        while await self._create_indexes_in_place():
            if self._optimizing is not None:  # it may have begun before the fields were added
                await asyncio.wait({self._optimizing})
            else:
                await self.optimize()

    async def _create_indexes_in_place(self) -> bool:
        """Creates missing indexes, unless that stops the process for too long; returns whether some
        are still missing."""
        while True:
            process = self._process
            stats: Stats = await process.call(GetStats(), self._timeout_s)
            missing = without_index(self._fields, stats.indexed_fields)
            if not missing or stats.points > _IN_PLACE_POINTS:
                return bool(missing)
            for field in missing:
                await process.call(CreateIndex(field))

    async def _optimize_if_due(self) -> None:
        while (before := self._points_until_check) <= 0:
            stats: Stats = await self._process.call(GetStats(), self._timeout_s)
            # A point that replaced another is new as well, and the old one still takes its room.
            new = max(stats.points - stats.indexed, self._upserted)
            enough = max(self._optimize_after_points, stats.indexed // _NEW_FRACTION)
            if new >= enough or without_index(self._fields, stats.indexed_fields):
                await self._optimize()
            else:
                # Less what was added meanwhile, which the answer may or may not have counted.
                self._points_until_check += enough - new - before

    async def _optimize(self) -> None:
        self._points_until_check = self._optimize_after_points  # also if it fails
        await rebuild(
            self._process,
            self._folder,
            self._changes,
            embedding_dim=self._embedding_dim,
            fields=self._fields,
            lock=self._lock,
            switch=self._switch,
        )
        await self._create_indexes_in_place()  # of fields that were added meanwhile

    def _begin(self, optimizing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._optimizing = asyncio.create_task(optimizing, name="edge-optimize")
        self._optimizing.add_done_callback(self._ended)
        return self._optimizing

    def _switch(self, successor: EdgeProcess) -> None:
        self._process, self._upserted = successor, 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._optimizing is task:
            self._optimizing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning(
                "%s: the search graph was not built, searches stay as slow: %s",
                self._folder.path,
                error,
            )

    async def _keep_running(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            process, since = self._process, time.monotonic()
            await process.ended.wait()
            if process is not self._process:
                continue  # it was replaced, and has retired
            if time.monotonic() - since > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            _log.error("the index process %d died; starting it again", process.pid)
            INDEX_PROCESS_RESTARTS.inc()
            await cancel(self._optimizing)
            await process.kill()
            self._process, pause_s = await self._restart(pause_s)
            _log.info("the index process is back")

    async def _restart(self, pause_s: float) -> tuple[EdgeProcess, float]:
        """Returns a new process, and the pause before the next if this one dies soon too."""
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                return await self._start(), pause_s
            except (ClipsearchError, OSError) as error:
                _log.error("the index process does not start: %s", error)

    async def _start(self) -> EdgeProcess:
        shard = await asyncio.to_thread(self._folder.current)
        return await EdgeProcess.start(shard, lock=self._lock)
