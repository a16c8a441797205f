"""The embedded store: collections in a data folder of ours, each with an index of its own."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clipsearch_server.errors import (
    ClipsearchError,
    CollectionExists,
    CollectionInUse,
    CollectionNotFound,
    IndexUnavailable,
    StartupError,
    StorageFull,
)
from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.indexes.edge.client import EdgeProcess
from clipsearch_server.indexes.edge.data_dir import DataDir
from clipsearch_server.indexes.edge.index import DESCRIPTION, EdgeIndex
from clipsearch_server.indexes.edge.lock import DataDirLock
from clipsearch_server.indexes.opened import OpenIndexes
from clipsearch_server.indexes.tasks import cancel
from clipsearch_server.ports import CollectionSpec, FoundCollection

_log = logging.getLogger(__name__)


class EdgeStore:
    """Implements IndexStore on a data folder, which no second server can open meanwhile.

    What is there is known from its cards when the store is entered. The default collection is then
    open; the others, each with a process of its own, are opened one after the other meanwhile, or
    when they are asked for. A collection that is damaged is logged, and calls to it raise
    IndexUnavailable with the reason. Of the default one entering raises StartupError, as it does if
    another server has the folder.

    What changes collections or aliases is done one after the other, and to its end, also if the
    caller gives up. ``max_in_flight``, ``optimize_after_points`` and ``hnsw_ef`` are those of each
    `EdgeIndex`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        default: str,
        spec: CollectionSpec,
        optimize_after_points: int,
        hnsw_ef: int,
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._data_dir = data_dir
        self._lock = DataDirLock(data_dir)
        self._disk = DataDir(data_dir)
        self._default = default
        self._spec = spec
        self._optimize_after_points = optimize_after_points
        self._hnsw_ef = hnsw_ef
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._cards: dict[str, CollectionCard] = {}
        self._damaged: dict[str, str] = {}  # collections whose card cannot be read, and why
        self._aliases: dict[str, str] = {}
        self._indexes: OpenIndexes[EdgeIndex] = OpenIndexes()
        self._turn = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self._lock.__enter__)
            stack.push(self._lock)
            stack.push_async_callback(self._indexes.close_all)
            stack.push_async_callback(self._end_changes)
            try:
                self._aliases = await asyncio.to_thread(self._disk.prepare, self._default)
                await asyncio.to_thread(self._read_cards)
                await self._open_default()
            except (OSError, IndexUnavailable, StorageFull) as error:
                raise StartupError(f"{self._data_dir}: {error}") from error
            opener = asyncio.create_task(self._open_others(), name="open collections")
            stack.push_async_callback(cancel, opener)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the changes under way, closes the indexes, and gives the folder back."""
        await self._stack.aclose()

    @property
    def description(self) -> str:
        return DESCRIPTION

    async def find(self, name: str, *, anew: bool = False) -> FoundCollection:
        own_name = self._aliases.get(name, name)
        return FoundCollection(own_name, self._card(own_name, asked_for=name).spec)

    async def collections(self) -> Mapping[str, CollectionSpec]:
        return {name: card.spec for name, card in self._cards.items()}

    async def aliases(self) -> Mapping[str, str]:
        return {alias: name for alias, name in self._aliases.items() if self._is_there(name)}

    async def open(self, name: str) -> EdgeIndex:
        card = self._card(name)
        try:
            return await self._indexes.open(name, lambda: self._index(name, card))
        except StartupError as error:
            raise IndexUnavailable(error.message) from error

    async def create(self, name: str, spec: CollectionSpec) -> None:
        await self._change(self._create(name, spec))

    async def update(self, name: str, spec: CollectionSpec) -> None:
        known = self._card(name).spec
        index = await self.open(name)
        added = [field for field in spec.indexed_fields if field not in known.indexed_fields]
        if added:
            await index.add_indexed_fields(added)
        await self._change(self._write_card(name, spec))

    async def delete(self, name: str) -> None:
        await self._change(self._delete(name))

    async def set_alias(self, alias: str, collection: str) -> None:
        await self._change(self._set_alias(alias, collection))

    async def delete_alias(self, alias: str) -> None:
        await self._change(self._delete_alias(alias))

    def _card(self, name: str, *, asked_for: str = "") -> CollectionCard:
        if name in self._damaged:
            raise IndexUnavailable(self._damaged[name])
        if name not in self._cards:
            raise CollectionNotFound(asked_for or name)
        return self._cards[name]

    def _is_there(self, name: str) -> bool:
        return name in self._cards or name in self._damaged

    def _read_cards(self) -> None:
        for name in self._disk.names():
            try:
                self._cards[name] = self._disk.folder(name).read_card()
            except StartupError as error:
                if name == self._aliases[self._default]:
                    raise
                _log.error("collection %s is not served: %s", name, error.message)
                self._damaged[name] = error.message

    async def _open_default(self) -> None:
        name = self._aliases[self._default]
        if not self._is_there(name):
            await self._make(name, self._spec)
        await self._indexes.open(name, lambda: self._index(name, self._cards[name]))

    async def _open_others(self) -> None:
        """So that neither the first search of each waits for its process, nor the first list of all
        for that many."""
        for name in list(self._cards):
            try:
                await self.open(name)
            except CollectionNotFound:
                pass  # deleted meanwhile
            except ClipsearchError as error:
                _log.error("collection %s is not served: %s", name, error.message)

    def _index(self, name: str, card: CollectionCard) -> EdgeIndex:
        return EdgeIndex(
            self._disk.folder(name),
            lock=self._lock.descriptor,
            embedding_dim=card.spec.embedding_dim,
            indexed_fields=card.spec.indexed_fields,
            optimize_after_points=self._optimize_after_points,
            hnsw_ef=self._hnsw_ef,
            max_in_flight=self._max_in_flight,
            timeout_s=self._timeout_s,
        )

    async def _make(self, name: str, spec: CollectionSpec) -> None:
        folder, card = self._disk.folder(name), CollectionCard(spec=spec)
        shard = await asyncio.to_thread(folder.stage, card)
        process = await EdgeProcess.start(
            shard, lock=self._lock.descriptor, create_dim=spec.embedding_dim
        )
        await process.stop()
        await asyncio.to_thread(folder.commit)
        self._cards[name] = card

    async def _create(self, name: str, spec: CollectionSpec) -> None:
        if self._is_there(name) or name in self._aliases:
            raise CollectionExists(name)
        with _explained(name):
            await self._make(name, spec)

    async def _write_card(self, name: str, spec: CollectionSpec) -> None:
        card = replace(self._card(name), spec=spec)
        with _explained(name):
            await asyncio.to_thread(self._disk.folder(name).write_card, card)
        self._cards[name] = card

    async def _delete(self, name: str) -> None:
        if not self._is_there(name):
            raise CollectionNotFound(name)
        if aliases := sorted(alias for alias, it in self._aliases.items() if it == name):
            raise CollectionInUse(
                f"{', '.join(aliases)} stands for the collection {name}", name=name
            )
        card = self._cards.pop(name, None)  # nobody opens it from here on
        try:
            await self._indexes.close(name)
            with _explained(name):
                await asyncio.to_thread(self._disk.folder(name).remove_all)
        except BaseException:
            if card is not None:
                self._cards[name] = card
            raise
        self._damaged.pop(name, None)

    async def _set_alias(self, alias: str, collection: str) -> None:
        if collection not in self._cards:
            raise CollectionNotFound(collection)
        if self._is_there(alias):
            raise CollectionExists(alias)
        await self._write_aliases({**self._aliases, alias: collection})

    async def _delete_alias(self, alias: str) -> None:
        if alias not in self._aliases:
            raise CollectionNotFound(alias, "alias")
        await self._write_aliases({it: to for it, to in self._aliases.items() if it != alias})

    async def _write_aliases(self, aliases: dict[str, str]) -> None:
        with _explained("the aliases"):
            await asyncio.to_thread(self._disk.write_aliases, aliases)
        self._aliases = aliases

    async def _change(self, work: Coroutine[Any, Any, None]) -> None:
        """Does what changes the folder in its turn, and to its end."""

        async def in_turn() -> None:
            async with self._turn:
                await work

        task = asyncio.create_task(in_turn(), name="change collections")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _end_changes(self) -> None:
        await asyncio.gather(*self._changes, return_exceptions=True)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raises a failure of the disk, or of a process that is to write to it, as the domain's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{what}: the disk is full") from error
        raise IndexUnavailable(f"{what}: {error}") from error
    except StartupError as error:
        raise IndexUnavailable(error.message) from error
