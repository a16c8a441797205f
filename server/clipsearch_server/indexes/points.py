"""A stored image as a Qdrant point: its id, and a payload of JSON values.

The payload keeps the names of StoredImage, so that a filter on ``metadata.colour`` or
``create_time`` reads as one would expect; times are RFC 3339, which Qdrant's datetime index takes.
Metadata is kept a second time, as text, and read from there: Qdrant Edge reads one number in ten
with an error in its last digit (tried), and a copy of a copy would drift.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np

from clipsearch_server.ports import Embedding, Embeddings, NearestQuery, StoredImage

Payload: TypeAlias = dict[str, Any]

CONTENT_KEY = "sha256"  # looked up on every add, so every shard has an index on it


def to_payload(image: StoredImage) -> Payload:
    """Returns everything of an image but its id, as JSON values."""
    payload = {
        "url": image.url,
        "uri": image.uri,
        "metadata": dict(image.metadata),
        "metadata_json": json.dumps(image.metadata),
        CONTENT_KEY: image.sha256,
        "media_type": image.media_type,
        "width_px": image.width_px,
        "height_px": image.height_px,
        "size_bytes": image.size_bytes,
        "create_time": image.create_time.isoformat(timespec="microseconds"),
        "update_time": image.update_time.isoformat(timespec="microseconds"),
    }
    if image.duplicate_of is not None:
        payload["duplicate_of"] = str(image.duplicate_of)
    return payload


def from_payload(image_id: UUID, payload: Mapping[str, Any]) -> StoredImage:
    """Returns the image that ``to_payload`` made the payload of, also before there were
    duplicates.

    Raises KeyError, TypeError or ValueError if it made no such payload.
    """
    return StoredImage(
        id=image_id,
        url=payload["url"],
        uri=payload["uri"],
        metadata=json.loads(payload["metadata_json"]),
        sha256=payload[CONTENT_KEY],
        media_type=payload["media_type"],
        width_px=payload["width_px"],
        height_px=payload["height_px"],
        size_bytes=payload["size_bytes"],
        create_time=datetime.fromisoformat(payload["create_time"]),
        update_time=datetime.fromisoformat(payload["update_time"]),
        duplicate_of=UUID(str(payload["duplicate_of"])) if "duplicate_of" in payload else None,
    )


def checked_embeddings(embeddings: Embeddings, count: int, embedding_dim: int) -> Embeddings:
    """Returns the embeddings of count images as float32. Raises ValueError unless they are
    (count, embedding_dim) and finite."""
    if embeddings.shape != (count, embedding_dim):
        raise ValueError(
            f"embeddings of {count} images are {embeddings.shape}, not ({count}, {embedding_dim})"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("an embedding is not finite")
    return np.asarray(embeddings, dtype=np.float32)


def checked_embedding(embedding: Embedding, embedding_dim: int) -> Embedding:
    """Returns a query's embedding as float32. Raises ValueError unless it is (embedding_dim,) and
    finite."""
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.shape != (embedding_dim,) or not np.isfinite(vector).all():
        raise ValueError(f"not a finite embedding of {embedding_dim} dimensions")
    return vector


def best_first(scored: Iterable[tuple[UUID, float]]) -> list[tuple[UUID, float]]:
    """Returns ids and scores by falling score, then by rising id: an index may put equal scores
    into any order."""
    return sorted(scored, key=lambda it: (-it[1], it[0]))


def any_query(embedding_dim: int) -> NearestQuery:
    """A search that costs little, to see whether searches are answered: any direction does."""
    return NearestQuery(embedding=np.eye(1, embedding_dim, dtype=np.float32)[0], limit=1)
