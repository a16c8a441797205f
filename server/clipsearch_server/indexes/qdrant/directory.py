"""What is in Qdrant: collections, which of them are ours, and aliases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import grpc
from qdrant_client import AsyncQdrantClient

from clipsearch_server.errors import ClipsearchError, CollectionNotFound, ModelMismatch
from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.indexes.qdrant.collection import Collection
from clipsearch_server.indexes.qdrant.faults import checking
from clipsearch_server.indexes.qdrant.recent import Recent
from clipsearch_server.ports import CollectionSpec

# Other servers switch aliases and change templates too. What they did is seen after so long, for
# two calls of Qdrant's a second and name.
_MAX_AGE_S = 1.0

_AT_A_TIME = 8  # collections that are asked for their cards


class Directory:
    """Asks Qdrant. What it answers at once may be a second old, unless ``forget`` was called."""

    def __init__(self, client: AsyncQdrantClient, *, address: str, timeout_s: float) -> None:
        self._client = client
        self._address = address
        self._timeout_s = timeout_s
        self._aliases: Recent[Mapping[str, str]] = Recent(_MAX_AGE_S)
        self._cards: Recent[CollectionCard] = Recent(_MAX_AGE_S)

    def forget(self) -> None:
        """What is asked from here on is asked anew."""
        self._aliases.forget()
        self._cards.forget()

    async def names(self) -> set[str]:
        """Returns all collections, ours or not. Always asked anew."""
        return {it.name for it in (await self._client.get_collections()).collections}

    async def aliases(self, *, anew: bool = False) -> Mapping[str, str]:
        """Returns what all aliases stand for, ours or not."""
        if anew:
            self._aliases.forget()
        return await self._aliases.get("", self._ask_aliases)

    async def card(self, name: str) -> CollectionCard:
        """Returns what a collection says of itself; an alias is taken for its collection. Raises
        CollectionNotFound, ModelMismatch if another program or version made it."""
        return await self._cards.get(name, lambda: self._ask_card(name))

    async def ours(self) -> dict[str, CollectionSpec]:
        """Returns the collections that we made."""
        gate = asyncio.Semaphore(_AT_A_TIME)
        ours: dict[str, CollectionSpec] = {}

        async def read(name: str) -> None:
            async with gate:
                with suppress(CollectionNotFound, ModelMismatch):
                    ours[name] = (await self.card(name)).spec

        await asyncio.gather(*(read(name) for name in await self.names()))
        return ours

    async def require_ours(self, name: str, otherwise: ClipsearchError) -> None:
        """Raises the error unless a collection, not an alias, has the name and is ours."""
        if name not in await self.names():
            raise otherwise
        try:
            await self.card(name)
        except (CollectionNotFound, ModelMismatch) as error:
            raise otherwise from error

    async def _ask_aliases(self) -> Mapping[str, str]:
        answer = await self._client.get_aliases()
        return {it.alias_name: it.collection_name for it in answer.aliases}

    async def _ask_card(self, name: str) -> CollectionCard:
        async with checking(self._address, self._timeout_s):
            try:
                return await Collection(self._client, name, address=self._address).read()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    raise CollectionNotFound(name) from error
                raise
