"""Opens the store of the collections."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from clipsearch_server.indexes.edge.store import EdgeStore
from clipsearch_server.model import ModelCard
from clipsearch_server.ports import CollectionSpec, IndexStore
from clipsearch_server.settings import Settings


def open_store(settings: Settings, card: ModelCard) -> AbstractAsyncContextManager[IndexStore]:
    """Returns the store that the settings name, to be entered; that makes the default collection
    for this model, if there is none, and raises StartupError or ModelMismatch."""
    spec = CollectionSpec(
        model_id=card.model_id, fingerprint=card.fingerprint, embedding_dim=card.embedding_dim
    )
    if settings.index.backend == "edge":
        return EdgeStore(
            settings.data_dir,
            default=settings.collection,
            spec=spec,
            optimize_after_points=settings.index.optimize_after_points,
            hnsw_ef=settings.index.hnsw_ef,
            max_in_flight=settings.index.max_in_flight,
            timeout_s=settings.index.timeout_s,
        )
    # Imported only here: qdrant_client takes 0.5 s, more than everything else together (0.4 s).
    from clipsearch_server.indexes.qdrant.collection import CollectionLayout
    from clipsearch_server.indexes.qdrant.connection import QdrantServer
    from clipsearch_server.indexes.qdrant.store import QdrantStore

    qdrant = settings.qdrant
    return QdrantStore(
        QdrantServer(
            url=qdrant.url, api_key=qdrant.api_key.get_secret_value(), ca_file=qdrant.ca_file
        ),
        default=settings.collection,
        spec=spec,
        layout=CollectionLayout(
            shards=qdrant.shards,
            replication_factor=qdrant.replication_factor,
            write_consistency_factor=qdrant.write_consistency_factor,
            quantization=qdrant.quantization,
            on_disk=qdrant.on_disk,
            hnsw_m=qdrant.hnsw_m,
            hnsw_ef_construct=qdrant.hnsw_ef_construct,
        ),
        hnsw_ef=settings.index.hnsw_ef,
        max_in_flight=settings.index.max_in_flight,
        timeout_s=settings.index.timeout_s,
    )
