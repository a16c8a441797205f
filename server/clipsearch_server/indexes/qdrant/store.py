"""The remote store: the collections of a Qdrant server or cluster that clipsearch made."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import grpc
from qdrant_client import AsyncQdrantClient, models

from clipsearch_server.errors import (
    ClipsearchError,
    CollectionExists,
    CollectionInUse,
    CollectionNotFound,
    IndexUnavailable,
    ModelMismatch,
)
from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.indexes.opened import OpenIndexes
from clipsearch_server.indexes.qdrant.collection import (
    MIN_VERSION,
    Collection,
    CollectionLayout,
    require_version,
)
from clipsearch_server.indexes.qdrant.connection import QdrantServer
from clipsearch_server.indexes.qdrant.directory import Directory
from clipsearch_server.indexes.qdrant.faults import checking, explained
from clipsearch_server.indexes.qdrant.index import QdrantIndex
from clipsearch_server.indexes.tasks import cancel
from clipsearch_server.ports import CollectionSpec, FoundCollection

_log = logging.getLogger(__name__)

_START_S = 5.0  # for Qdrant to answer before the server starts without it
_RETRY_S = 0.25  # between attempts to prepare the default collection, until it is


class QdrantStore:
    """Implements IndexStore on a Qdrant server or cluster, over one connection.

    A Qdrant that is away at first is waited for: until the default collection is there and open,
    calls raise what stands in the way. Once it was, it is never made anew: a collection that
    disappears is reported, and is served again when it is back.

    A collection is ours if its metadata say so; aliases are Qdrant's own. An older collection of
    the default name itself is served under it.

    Entering raises ModelMismatch if another program made the default collection, StartupError if
    the server's description is no good.
    """

    def __init__(
        self,
        server: QdrantServer,
        *,
        default: str,
        spec: CollectionSpec,
        layout: CollectionLayout,
        hnsw_ef: int,
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._server = server
        self._address = server.address
        self._default = default
        self._spec = spec
        self._layout = layout
        self._hnsw_ef = hnsw_ef
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._client: AsyncQdrantClient
        self._directory: Directory
        self._version = ""  # of Qdrant, until it answers
        self._default_collection = ""  # what the default name stands for; "" until it is open
        self._obstacle: ClipsearchError | None = None  # why it is not open yet
        self._indexes: OpenIndexes[QdrantIndex] = OpenIndexes()
        self._opened: dict[str, CollectionSpec] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._client = await asyncio.to_thread(self._server.connect, self._timeout_s)
            stack.push_async_callback(self._client.close)
            self._directory = Directory(
                self._client, address=self._address, timeout_s=self._timeout_s
            )
            stack.push_async_callback(self._indexes.close_all)
            try:
                await self._prepare(min(self._timeout_s, _START_S))
            except IndexUnavailable as error:
                self._meet(error)
                opener = asyncio.create_task(self._prepare_in_the_end(), name="prepare qdrant")
                stack.push_async_callback(cancel, opener)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the indexes and disconnects."""
        await self._stack.aclose()

    @property
    def description(self) -> str:
        version = f"qdrant {self._version}" if self._version else "qdrant"
        return f"{version} at {self._address}"

    async def find(self, name: str, *, anew: bool = False) -> FoundCollection:
        if anew:
            self._directory.forget()
        async with self._asking():
            aliases = await self._directory.aliases()
            if name not in aliases and name not in self._opened:
                # Qdrant would take a new alias for a collection's own name, and follow it later.
                aliases = await self._directory.aliases(anew=True)
            if name == self._default:
                return await self._find_default(aliases)
            own_name = aliases.get(name, name)
            try:
                card = await self._directory.card(own_name)
            except (CollectionNotFound, ModelMismatch) as error:
                raise CollectionNotFound(name) from error
        return FoundCollection(own_name, card.spec)

    async def collections(self) -> Mapping[str, CollectionSpec]:
        async with self._asking():
            return await self._directory.ours()

    async def aliases(self) -> Mapping[str, str]:
        async with self._asking():
            ours = await self._directory.ours()
            aliases = await self._directory.aliases()
        return {alias: name for alias, name in aliases.items() if name in ours}

    async def open(self, name: str) -> QdrantIndex:
        async with self._asking():
            if name in await self._directory.aliases():
                raise CollectionNotFound(name)
            spec = (await self._directory.card(name)).spec
            known = self._opened.get(name, spec)
            # Another server made it anew, for another model or with fewer indexes.
            if _model(known) != _model(spec) or not _has_fields_of(spec, known):
                # Forgotten first: who opens it meanwhile closes nothing of what is opened anew.
                self._opened.pop(name, None)
                await self._indexes.close(name)
                known = spec
            index = await self._indexes.open(name, lambda: self._index(name, spec))
            if not _has_fields_of(known, spec):  # another server added indexes
                await index.add_indexed_fields(spec.indexed_fields)
            self._opened[name] = spec
            return index

    async def create(self, name: str, spec: CollectionSpec) -> None:
        async with self._changing():
            if name in await self._directory.names() or name in await self._directory.aliases():
                raise CollectionExists(name)
            try:
                await self._make(name, spec)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    raise CollectionExists(name) from error
                raise
            await self._open(name, spec)

    async def update(self, name: str, spec: CollectionSpec) -> None:
        index = await self.open(name)
        async with self._asking():
            card = await self._directory.card(name)
        known = card.spec.indexed_fields
        if added := [field for field in spec.indexed_fields if field not in known]:
            await index.add_indexed_fields(added)
        async with self._changing():
            await self._collection(name).write(replace(card, spec=spec))

    async def delete(self, name: str) -> None:
        async with self._changing():
            await self._directory.require_ours(name, CollectionNotFound(name))
            aliases = await self._directory.aliases()
            if used := sorted(alias for alias, it in aliases.items() if it == name):
                raise CollectionInUse(
                    f"{', '.join(used)} stands for the collection {name}", name=name
                )
            await self._indexes.close(name)
            self._opened.pop(name, None)
            await self._client.delete_collection(name)

    async def set_alias(self, alias: str, collection: str) -> None:
        async with self._changing():
            await self._directory.require_ours(collection, CollectionNotFound(collection))
            if alias in await self._directory.names():
                raise CollectionExists(alias)
            before = (await self._directory.aliases()).get(alias)
            if before is not None:
                await self._directory.require_ours(before, CollectionExists(alias))
            await self._switch(alias, collection, replaces=before is not None)

    async def delete_alias(self, alias: str) -> None:
        async with self._changing():
            collection = (await self._directory.aliases()).get(alias)
            if collection is None:
                raise CollectionNotFound(alias, "alias")
            await self._directory.require_ours(collection, CollectionNotFound(alias, "alias"))
            await self._client.update_collection_aliases([_removal(alias)])

    async def _prepare(self, timeout_s: float) -> None:
        """Finds or makes the default collection, and opens it. Cut short, it may be repeated."""
        self._directory.forget()
        async with checking(self._address, timeout_s):
            self._version = (await self._client.info()).version
            require_version(
                f"Qdrant at {self._address}",
                self._version,
                MIN_VERSION,
                "keeps no metadata of a collection",
            )
            names, aliases = await self._directory.names(), await self._directory.aliases()
            own_name = aliases.get(self._default, f"{self._default}-1")
            if self._default in names:  # from before there were aliases
                own_name = self._default
            elif own_name not in names:
                try:
                    await self._make(own_name, self._spec)
                except grpc.aio.AioRpcError as error:
                    # Two servers started at once, and the other was faster. (Before Qdrant 1.8 the
                    # code was another; that is older than what we take.)
                    if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                        raise
            card = await self._directory.card(own_name)
            if own_name != self._default and self._default not in aliases:
                await self._switch(self._default, own_name, replaces=False)
            await self._open(own_name, card.spec)
        self._default_collection = own_name
        _log.info("opened collection %s: %s", own_name, self.description)

    async def _prepare_in_the_end(self) -> None:
        while not self._default_collection:
            await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1))
            try:
                await self._prepare(self._timeout_s)
            except (IndexUnavailable, ModelMismatch) as error:
                self._meet(error)

    def _meet(self, obstacle: ClipsearchError) -> None:
        if self._obstacle is None or self._obstacle.message != obstacle.message:
            _log.warning("the index is not open yet, and is tried again: %s", obstacle.message)
        self._obstacle = obstacle

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        if not self._default_collection:
            assert self._obstacle is not None
            # One exception is raised again and again: without this, its traceback would grow.
            raise self._obstacle.with_traceback(None)
        with explained(self._address):
            async with asyncio.timeout(self._timeout_s):
                yield

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """What is changed is seen by this server at once."""
        self._directory.forget()
        try:
            async with self._asking():
                yield
        finally:
            self._directory.forget()

    async def _find_default(self, aliases: Mapping[str, str]) -> FoundCollection:
        own_name = self._default_collection = aliases.get(self._default, self._default_collection)
        try:
            card = await self._directory.card(own_name)
        except CollectionNotFound as error:
            raise IndexUnavailable(
                f"Qdrant at {self._address} has lost the collection {own_name}; put it back, or "
                "restart this server to make it anew"
            ) from error
        if own_name != self._default and self._default not in aliases:
            # It went with the collection, and has not come back with it.
            await self._switch(self._default, own_name, replaces=False)
        return FoundCollection(own_name, card.spec)

    async def _make(self, name: str, spec: CollectionSpec) -> None:
        await self._collection(name).create(
            CollectionCard(spec=spec), self._layout, server_version=self._version
        )

    async def _switch(self, alias: str, collection: str, *, replaces: bool) -> None:
        """In one call, so that the alias always stands for one or the other."""
        create = models.CreateAlias(alias_name=alias, collection_name=collection)
        await self._client.update_collection_aliases(
            [
                *([_removal(alias)] if replaces else []),
                models.CreateAliasOperation(create_alias=create),
            ]
        )
        self._directory.forget()

    async def _open(self, name: str, spec: CollectionSpec) -> QdrantIndex:
        index = await self._indexes.open(name, lambda: self._index(name, spec))
        self._opened[name] = spec
        return index

    def _index(self, name: str, spec: CollectionSpec) -> QdrantIndex:
        return QdrantIndex(
            self._client,
            name,
            spec=spec,
            address=self._address,
            server_version=self._version,
            hnsw_ef=self._hnsw_ef,
            max_in_flight=self._max_in_flight,
            timeout_s=self._timeout_s,
        )

    def _collection(self, name: str) -> Collection:
        return Collection(self._client, name, address=self._address)


def _model(spec: CollectionSpec) -> tuple[str, int]:
    return spec.fingerprint, spec.embedding_dim


def _has_fields_of(spec: CollectionSpec, other: CollectionSpec) -> bool:
    """Whether all fields that are indexed in another collection are in one."""
    return set(other.indexed_fields) <= set(spec.indexed_fields)


def _removal(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
