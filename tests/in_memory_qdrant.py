"""qdrant_client's own imitation of a Qdrant server, in this process: our calls, without gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata
from qdrant_client import AsyncQdrantClient, models

from clipsearch_server.indexes.qdrant.connection import QdrantServer


class InMemoryQdrant(QdrantServer):
    """Connects to a store of its own, which is gone with the one that opened it."""

    def connect(self, timeout_s: float) -> AsyncQdrantClient:
        return _Client(location=":memory:")


class _Client(AsyncQdrantClient):
    async def get_collection(self, collection_name: str, **kwargs: Any) -> models.CollectionInfo:
        """Fails as a server's does."""
        try:
            return await super().get_collection(collection_name, **kwargs)
        except ValueError as error:
            raise AioRpcError(
                grpc.StatusCode.NOT_FOUND, Metadata(), Metadata(), str(error)
            ) from error
