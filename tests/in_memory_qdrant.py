"""qdrant_client's own imitation of a Qdrant server, in this process: our calls, without gRPC."""

from __future__ import annotations

from qdrant_client import AsyncQdrantClient

from clipsearch_server.indexes.qdrant.connection import QdrantServer


class InMemoryQdrant(QdrantServer):
    """Connects to a store of its own, which is gone with the index that opened it."""

    def connect(self, timeout_s: float) -> AsyncQdrantClient:
        return AsyncQdrantClient(location=":memory:")
