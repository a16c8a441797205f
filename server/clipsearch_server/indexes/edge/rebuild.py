"""Builds the search graph of a collection while it is being searched and written to.

Edge's ``optimize`` holds the interpreter lock for minutes, so it happens to a copy, in a process of
its own; the copy is then brought up to date and takes the place of the live shard::

    copying        a background process creates a new shard with indexes on its fields; page after
                   page of the live one goes in
    optimizing     it builds the graph, flushes and ends
    catching up    a process of normal priority opens the new shard; ids written since copying began
                   are copied again, round after round, until few are left
    switching      writes are held; the last ids are copied, and flushed; CURRENT names the new
                   shard; reads and writes go to the new process; writes go on
    retiring       the old process ends and its folder is removed

Why nothing is lost: until the switch, writes go to the live shard alone, so it always has
everything. What is copied is the state of an id, not a change to it, and every id written after
copying began is copied again after that write, the last ones while writes are held. A crash before
CURRENT is replaced leaves the old shard, a crash after it the new one.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from clipsearch_server.errors import IndexUnavailable, StorageFull
from clipsearch_server.indexes.edge.changes import Changes
from clipsearch_server.indexes.edge.client import EdgeProcess
from clipsearch_server.indexes.edge.durable import disk_usage
from clipsearch_server.indexes.edge.folder import CollectionFolder
from clipsearch_server.indexes.edge.protocol import (
    MAX_POINTS,
    CopyIds,
    CopyPage,
    CreateIndex,
    Delete,
    Flush,
    Optimize,
    Points,
    Upsert,
)
from clipsearch_server.ports import IndexedField

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

# Left to copy while writes are held: 2 messages of 32 points, about 10 ms; a flush comes on top.
_FEW = 2 * MAX_POINTS

# A writer faster than the copying would keep us catching up for ever; after so many rounds, each
# shorter than the one before or not, writes are held for what is left.
_MAX_ROUNDS = 20

_SPARE_BYTES = 256 * 2**20  # for what else is written meanwhile

_NICE = 10  # the build gives way, and still comes to an end on a busy machine; Qdrant does the same


async def rebuild(
    live: EdgeProcess,
    folder: CollectionFolder,
    changes: Changes,
    *,
    embedding_dim: int,
    fields: Sequence[IndexedField],
    lock: int,
    switch: Callable[[EdgeProcess], None],
) -> None:
    """Replaces the live shard by one with a search graph; ``switch`` is called with its process
    when reads and writes are to go there.

    Raises StorageFull if there is no room for a second shard and the building of its graph,
    IndexUnavailable or StartupError if a process ends; the live shard is then as it was.
    """
    old = await asyncio.to_thread(folder.current)
    await asyncio.to_thread(_require_room, old)
    new = await asyncio.to_thread(folder.unused)
    try:
        with changes.noted():
            await _build(live, new, embedding_dim=embedding_dim, fields=fields, lock=lock)
            successor = await EdgeProcess.start(new, lock=lock)
            try:
                await _catch_up(live, successor, changes)
                # What the old shard has on disk, the new one must have there before it counts. The
                # first flush is for the second, which keeps writers waiting, to be short.
                await successor.call(Flush())
                await _catch_up(live, successor, changes)
                _log.info("%s: switching", new)
                with changes.held():
                    await _copy_ids(live, successor, changes.take())
                    await successor.call(Flush())
                    await _name_current(folder, new)
                    switch(successor)
            except BaseException:
                await successor.kill()
                raise
    except BaseException:
        await _to_the_end(asyncio.to_thread(folder.remove, new))
        raise
    _log.info("%s: retiring", old)
    await live.stop()  # answers the searches that it was asked before the switch
    await asyncio.to_thread(folder.remove, old)
    _log.info("%s: optimized", new)


async def _build(
    live: EdgeProcess,
    new: Path,
    *,
    embedding_dim: int,
    fields: Sequence[IndexedField],
    lock: int,
) -> None:
    """Creates a shard with a copy of the live one, and its graph."""
    _log.info("%s: copying", new)
    builder = await EdgeProcess.start(new, lock=lock, create_dim=embedding_dim, nice=_NICE)
    try:
        for field in fields:
            await builder.call(CreateIndex(field))
        start_id: UUID | None = None
        while True:
            points, start_id = await live.call(CopyPage(MAX_POINTS, start_id))
            await _store(builder, points)
            if start_id is None:
                break
        _log.info("%s: optimizing", new)
        await builder.call(Optimize())
    finally:
        await builder.kill()


async def _catch_up(live: EdgeProcess, successor: EdgeProcess, changes: Changes) -> None:
    """Copies what was written meanwhile, until little is written during a round."""
    for _ in range(_MAX_ROUNDS):
        ids = changes.take()
        _log.info("catching up with %d writes", len(ids))
        await _copy_ids(live, successor, ids)
        if len(ids) <= _FEW:
            break


async def _copy_ids(live: EdgeProcess, successor: EdgeProcess, ids: Sequence[UUID]) -> None:
    for start in range(0, len(ids), MAX_POINTS):
        some = ids[start : start + MAX_POINTS]
        points: Points = await live.call(CopyIds(some))
        await _store(successor, points)
        if deleted := set(some).difference(points.ids):
            await successor.call(Delete(list(deleted)))


async def _name_current(folder: CollectionFolder, new: Path) -> None:
    try:
        await _to_the_end(asyncio.to_thread(folder.switch_to, new))
    except OSError as error:
        # The disk fails. Writes must go where CURRENT points, which may be the new shard by now.
        if await asyncio.to_thread(folder.current) != new:
            raise IndexUnavailable(f"{new}: cannot be made current: {error}") from error


async def _store(process: EdgeProcess, points: Points) -> None:
    if points.ids:
        await process.call(Upsert(points))


async def _to_the_end(work: Awaitable[_T]) -> _T:
    """Awaits work that goes on when we are cancelled, and only then lets the cancellation on: what
    a thread does to the folder must not overlap with what comes next."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _require_room(shard: Path) -> None:
    """Raises StorageFull unless there is room for a copy of a shard and for what building its graph
    writes beside that."""
    needed = 3 * disk_usage(shard) + _SPARE_BYTES
    if (free := shutil.disk_usage(shard).free) < needed:
        raise StorageFull(
            f"the search graph cannot be built: it needs {needed >> 20} MiB of disk for a while, "
            f"and {free >> 20} MiB are free"
        )
