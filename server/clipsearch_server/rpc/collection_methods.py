"""The methods that manage collections and their aliases."""

from __future__ import annotations

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer
from clipsearch_server.catalog import Catalog
from clipsearch_server.errors import CollectionNotFound
from clipsearch_server.rpc.collections import (
    collection,
    given_name,
    indexed_fields_of,
    new_name,
)
from clipsearch_server.rpc.options import Context
from clipsearch_server.rpc.prompt_templates import prompt_templates_of
from clipsearch_server.rpc.repetition import deleting


class CollectionMethods(ImageSearchServiceServicer):
    """A part of ImageSearchServicer."""

    _catalog: Catalog

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        created = await self._catalog.create(
            new_name(request.name, "name"),
            model=request.model,
            prompt_templates=prompt_templates_of(request.prompt_templates, "prompt_templates"),
            indexed_fields=indexed_fields_of(request.indexed_fields, "indexed_fields"),
        )
        return pb.CreateCollectionResponse(collection=collection(created))

    async def GetCollection(
        self, request: pb.GetCollectionRequest, context: Context
    ) -> pb.GetCollectionResponse:
        found = await self._catalog.describe(request.name)
        return pb.GetCollectionResponse(collection=collection(found))

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        return pb.ListCollectionsResponse(
            collections=map(collection, await self._catalog.collections())
        )

    async def UpdateCollection(
        self, request: pb.UpdateCollectionRequest, context: Context
    ) -> pb.UpdateCollectionResponse:
        templates = None
        if request.HasField("prompt_templates"):
            templates = prompt_templates_of(request.prompt_templates, "prompt_templates")
        updated = await self._catalog.update(
            request.name,
            prompt_templates=templates,
            add_indexed_fields=indexed_fields_of(request.add_indexed_fields, "add_indexed_fields"),
        )
        return pb.UpdateCollectionResponse(collection=collection(updated))

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        with deleting(CollectionNotFound, context):
            await self._catalog.delete(
                given_name(request.name, "name"), confirm_name=request.confirm_name
            )
        return pb.DeleteCollectionResponse()

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        previous = await self._catalog.set_alias(
            new_name(request.alias, "alias"), given_name(request.collection, "collection")
        )
        return pb.SetAliasResponse(previous_collection=previous)

    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> pb.DeleteAliasResponse:
        with deleting(CollectionNotFound, context):
            await self._catalog.delete_alias(given_name(request.alias, "alias"))
        return pb.DeleteAliasResponse()
