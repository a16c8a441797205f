"""The server, its collections and their aliases."""

from __future__ import annotations

from collections.abc import Sequence

from clipsearch._aio_client.connection import AioConnection
from clipsearch._convert import collections as convert
from clipsearch._convert.queries import templates_message
from clipsearch._models import Collection, IndexedField, ServerInfo
from clipsearch.v1 import image_search_pb2 as pb


class AioCollectionMethods(AioConnection):
    """A part of AsyncSearchClient."""

    async def create_collection(
        self,
        name: str,
        *,
        model: str = "",
        prompt_templates: Sequence[str] = (),
        indexed_fields: Sequence[IndexedField] = (),
        timeout_s: float | None = None,
    ) -> Collection:
        """Creates an empty collection; as ``SearchClient.create_collection``."""
        request = pb.CreateCollectionRequest(
            name=name,
            model=model,
            prompt_templates=templates_message(prompt_templates),
            indexed_fields=convert.indexed_fields(indexed_fields),
        )
        response, _ = await self._call(self._stub.CreateCollection, request, timeout_s)
        return convert.collection(response.collection)

    async def get_collection(self, name: str = "", *, timeout_s: float | None = None) -> Collection:
        """Gets a collection; as ``SearchClient.get_collection``."""
        request = pb.GetCollectionRequest(name=name)
        response, _ = await self._call(self._stub.GetCollection, request, timeout_s)
        return convert.collection(response.collection)

    async def list_collections(self, *, timeout_s: float | None = None) -> tuple[Collection, ...]:
        """Gets all collections; as ``SearchClient.list_collections``."""
        request = pb.ListCollectionsRequest()
        response, _ = await self._call(self._stub.ListCollections, request, timeout_s)
        return tuple(map(convert.collection, response.collections))

    async def update_collection(
        self,
        name: str = "",
        *,
        prompt_templates: Sequence[str] | None = None,
        add_indexed_fields: Sequence[IndexedField] = (),
        timeout_s: float | None = None,
    ) -> Collection:
        """Changes a collection; as ``SearchClient.update_collection``."""
        request = pb.UpdateCollectionRequest(
            name=name,
            prompt_templates=templates_message(prompt_templates),
            add_indexed_fields=convert.indexed_fields(add_indexed_fields),
        )
        response, _ = await self._call(self._stub.UpdateCollection, request, timeout_s)
        return convert.collection(response.collection)

    async def delete_collection(
        self, name: str, *, confirm_name: str = "", timeout_s: float | None = None
    ) -> None:
        """Deletes a collection; as ``SearchClient.delete_collection``."""
        request = pb.DeleteCollectionRequest(name=name, confirm_name=confirm_name)
        await self._call(self._stub.DeleteCollection, request, timeout_s)

    async def set_alias(
        self, alias: str, collection: str, *, timeout_s: float | None = None
    ) -> str:
        """Lets a name stand for a collection; as ``SearchClient.set_alias``."""
        request = pb.SetAliasRequest(alias=alias, collection=collection)
        response, _ = await self._call(self._stub.SetAlias, request, timeout_s)
        return response.previous_collection

    async def delete_alias(self, alias: str, *, timeout_s: float | None = None) -> None:
        """Removes an alias; as ``SearchClient.delete_alias``."""
        await self._call(self._stub.DeleteAlias, pb.DeleteAliasRequest(alias=alias), timeout_s)

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Gets what the server is; as ``SearchClient.server_info``."""
        response, _ = await self._call(
            self._stub.GetServerInfo, pb.GetServerInfoRequest(), timeout_s
        )
        return convert.server_info(response)
