"""The methods that manage collections and their aliases."""

from __future__ import annotations

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer
from clipsearch_server.catalog import Catalog
from clipsearch_server.rpc.options import Context, ServiceOptions


class CollectionMethods(ImageSearchServiceServicer):
    """A part of ImageSearchServicer."""

    _catalog: Catalog
    _options: ServiceOptions

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        raise NotImplementedError

    async def GetCollection(
        self, request: pb.GetCollectionRequest, context: Context
    ) -> pb.GetCollectionResponse:
        raise NotImplementedError

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        raise NotImplementedError

    async def UpdateCollection(
        self, request: pb.UpdateCollectionRequest, context: Context
    ) -> pb.UpdateCollectionResponse:
        raise NotImplementedError

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        raise NotImplementedError

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        raise NotImplementedError

    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> pb.DeleteAliasResponse:
        raise NotImplementedError
