"""A collection in Qdrant: how it is made, what it says of itself, and whether that still holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qdrant_client import AsyncQdrantClient, models

from clipsearch_server.errors import IndexUnavailable, ModelMismatch
from clipsearch_server.indexes.card import CollectionCard
from clipsearch_server.ports import CollectionSpec

Quantization: TypeAlias = Literal["none", "turbo4", "int8"]

_METADATA_KEY = "clipsearch"  # of the collection's metadata, which others may add to
MIN_VERSION = (1, 16)  # keeps metadata; an older one drops it without a word
_MIN_VERSION_TURBO = (1, 18)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionLayout:
    """How a new collection is spread and stored; one that exists stays as it is."""

    shards: int = 1
    replication_factor: int = 1  # copies of each shard
    write_consistency_factor: int = 1  # copies that must have a write, at most all
    quantization: Quantization = "none"  # compressed vectors beside the originals
    on_disk: bool = False  # vectors and graph are read from disk, not held in memory
    hnsw_m: int = 16
    hnsw_ef_construct: int = 100


class Collection:
    """A named collection of one server, which may not exist."""

    def __init__(self, client: AsyncQdrantClient, name: str, *, address: str) -> None:
        self._client = client
        self._name = name
        self._where = f"collection {name} in Qdrant at {address}"

    async def read(self) -> CollectionCard:
        """Raises ModelMismatch if another program made the collection, or another version."""
        return self._card(await self._client.get_collection(self._name))

    async def check(self, spec: CollectionSpec) -> models.CollectionInfo:
        """Raises ModelMismatch if the collection holds anything but embeddings of the spec's
        model."""
        info = await self._client.get_collection(self._name)
        stored = self._card(info).spec
        if (stored.fingerprint, stored.embedding_dim) != (spec.fingerprint, spec.embedding_dim):
            raise ModelMismatch(
                f"{self._where}: was filled by the model {stored.model_id} (fingerprint "
                f"{stored.fingerprint}, {stored.embedding_dim} dimensions), and by {spec.model_id} "
                f"(fingerprint {spec.fingerprint}, {spec.embedding_dim} dimensions) when this "
                "server opened it; restart the server",
                collection_fingerprint=stored.fingerprint,
                model_fingerprint=spec.fingerprint,
            )
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or (vectors.size, vectors.distance) != (
            spec.embedding_dim,
            models.Distance.COSINE,
        ):
            raise self._mismatch(
                f"does not hold single vectors of {spec.embedding_dim} dimensions by cosine"
            )
        return info

    async def write(self, card: CollectionCard) -> None:
        """Replaces what the collection says of itself."""
        await self._client.update_collection(self._name, metadata={_METADATA_KEY: card.to_values()})

    def _card(self, info: models.CollectionInfo) -> CollectionCard:
        values: Any = (info.config.metadata or {}).get(_METADATA_KEY)
        if not isinstance(values, dict):
            raise self._mismatch("does not say which model filled it, so another program made it")
        try:
            return CollectionCard.from_values(values)
        except ValueError as error:
            raise self._mismatch(str(error)) from error

    def _mismatch(self, what: str) -> ModelMismatch:
        return ModelMismatch(f"{self._where}: {what}; name another collection")

    async def create(
        self, card: CollectionCard, layout: CollectionLayout, *, server_version: str
    ) -> None:
        """Raises IndexUnavailable if Qdrant is too old for the layout, AioRpcError with
        ALREADY_EXISTS if there is such a collection."""
        if layout.quantization == "turbo4":
            require_version(
                self._where,
                server_version,
                _MIN_VERSION_TURBO,
                "has no TurboQuant; set another qdrant.quantization",
            )
        await self._client.create_collection(
            self._name,
            # Vectors are of unit length, so a dot product would do; but cosine keeps scores
            # cosines whatever the encoder's rounding.
            vectors_config=models.VectorParams(
                size=card.spec.embedding_dim,
                distance=models.Distance.COSINE,
                on_disk=layout.on_disk,
            ),
            hnsw_config=models.HnswConfigDiff(
                m=layout.hnsw_m,
                ef_construct=layout.hnsw_ef_construct,
                on_disk=layout.on_disk,
            ),
            quantization_config=_quantization(layout),
            on_disk_payload=True,  # a search reads the payloads of one page only
            shard_number=layout.shards,
            replication_factor=layout.replication_factor,
            write_consistency_factor=layout.write_consistency_factor,
            metadata={_METADATA_KEY: card.to_values()},
        )


def require_version(where: str, version: str, minimum: tuple[int, int], lack: str) -> None:
    """Raises IndexUnavailable if Qdrant is of an earlier version than ``minimum``."""
    if is_older(version, minimum):
        raise IndexUnavailable(f"{where}: version {version} {lack}; it takes {or_later(minimum)}")


def is_older(version: str, minimum: tuple[int, int]) -> bool:
    """Whether a version of Qdrant, if it is known, is an earlier one than ``minimum``."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) < minimum


def or_later(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]} or later"


def _quantization(layout: CollectionLayout) -> models.QuantizationConfig | None:
    # Compressed vectors are what a search goes through, so they are in memory wherever the
    # originals are.
    match layout.quantization:
        case "none":
            return None
        case "turbo4":
            return models.TurboQuantization(
                turbo=models.TurboQuantQuantizationConfig(
                    bits=models.TurboQuantBitSize.BITS4, always_ram=True
                )
            )
        case "int8":
            return models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(
                    type=models.ScalarType.INT8, quantile=0.99, always_ram=True
                )
            )
