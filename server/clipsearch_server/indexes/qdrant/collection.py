"""A collection in Qdrant: how it is made, and whether it holds this model's embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import grpc
from qdrant_client import AsyncQdrantClient, models

from clipsearch_server.errors import FilterRefused, IndexUnavailable, ModelMismatch
from clipsearch_server.filters import Filter, Prefix, leaves
from clipsearch_server.indexes.card import FORMAT_VERSION, CollectionCard
from clipsearch_server.indexes.fields import IMAGE_FIELDS, without_index
from clipsearch_server.indexes.filters import Translator
from clipsearch_server.indexes.points import CONTENT_KEY, checked_embedding
from clipsearch_server.indexes.qdrant.faults import completed
from clipsearch_server.indexes.qdrant.filters import FIELD_SCHEMAS, QdrantWords
from clipsearch_server.ports import FieldType, IndexedField, NearestQuery

Quantization: TypeAlias = Literal["none", "turbo4", "int8"]

_METADATA_KEY = "clipsearch"  # of the collection's metadata, which others may add to
_MIN_VERSION = (1, 16)  # keeps metadata; an older one drops it without a word
_MIN_VERSION_TURBO = (1, 18)
_MIN_VERSION_PREFIX = (1, 19)

# So many times what is asked for is found by compressed vectors, and scored anew by the originals.
_OVERSAMPLING = 2.0


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
    """A named collection of one server, which may not exist yet."""

    def __init__(
        self,
        client: AsyncQdrantClient,
        name: str,
        *,
        address: str,
        card: CollectionCard,
        layout: CollectionLayout,
        indexed_fields: Sequence[IndexedField],
    ) -> None:
        self._client = client
        self._name = name
        self._where = f"collection {name} in Qdrant at {address}"
        self._card = card
        self._layout = layout
        self._fields = (*IMAGE_FIELDS, *indexed_fields)
        self._quantized = False
        self.server_version = ""  # until opened

    async def open(self) -> None:
        """Creates the collection, if there is none, and the indexes on its fields.

        Raises ModelMismatch if it holds anything but this model's embeddings, IndexUnavailable if
        Qdrant is too old. Cut short, it may be repeated: it does what is missing.
        """
        self.server_version = (await self._client.info()).version
        self._require(_MIN_VERSION, "keeps no metadata of a collection")
        if not await self._client.collection_exists(self._name):
            await self._create()
        info = await self.check()
        if CONTENT_KEY not in info.payload_schema:
            await self._client.create_payload_index(
                self._name, CONTENT_KEY, models.PayloadSchemaType.KEYWORD, wait=True
            )
        # In a large collection of an earlier version, Qdrant builds these while it serves us.
        await self._create_indexes(info, wait=False)
        self._quantized = info.config.quantization_config is not None

    async def add_indexed_fields(self, fields: Sequence[IndexedField]) -> None:
        """Creates the indexes on these fields that are missing; returns when they are complete."""
        self._fields += tuple(without_index(fields, (field.field for field in self._fields)))
        await self._create_indexes(await self.check(), wait=True)

    def request(self, queries: Sequence[NearestQuery]) -> list[models.QueryRequest]:
        """Raises FilterRefused if this version of Qdrant does not know a condition, ValueError if
        an embedding is not (embedding_dim,) or not finite."""
        for filter in {id(it.filter): it.filter for it in queries}.values():
            if filter is not None:
                self._require_known(filter)
        time_fields = {field.field for field in self._fields if field.type is FieldType.TIME}
        translator = Translator(QdrantWords(), time_fields=time_fields)
        return [
            models.QueryRequest(
                query=checked_embedding(query.embedding, self._card.embedding_dim).tolist(),
                limit=query.limit,
                score_threshold=query.score_threshold,
                filter=translator.passing(query.filter, query.exclude),
                params=self._search_params(exact=query.exact),
                with_payload=False,
            )
            for query in queries
        ]

    async def check(self) -> models.CollectionInfo:
        """Raises ModelMismatch if the collection holds anything but this model's embeddings."""
        info = await self._client.get_collection(self._name)
        self._card.require(self._stored_card(info), self._where, way_out="or another collection")
        vectors = info.config.params.vectors
        size = self._card.embedding_dim
        if not isinstance(vectors, models.VectorParams) or (vectors.size, vectors.distance) != (
            size,
            models.Distance.COSINE,
        ):
            raise self._mismatch(f"does not hold single vectors of {size} dimensions by cosine")
        return info

    def _stored_card(self, info: models.CollectionInfo) -> CollectionCard:
        values: Any = (info.config.metadata or {}).get(_METADATA_KEY)
        if not isinstance(values, dict):
            raise self._mismatch("does not say which model filled it, so another program made it")
        if values.get("format_version") != FORMAT_VERSION:
            raise self._mismatch(
                f"has format {values.get('format_version')}, and this server reads {FORMAT_VERSION}"
            )
        try:
            return CollectionCard(**values)
        except TypeError as error:
            raise self._mismatch(f"has metadata that cannot be understood ({error})") from error

    def _mismatch(self, what: str) -> ModelMismatch:
        return ModelMismatch(
            f"{self._where}: {what}; name another collection",
            model_fingerprint=self._card.fingerprint,
        )

    async def _create(self) -> None:
        layout = self._layout
        if layout.quantization == "turbo4":
            self._require(_MIN_VERSION_TURBO, "has no TurboQuant; set another qdrant.quantization")
        try:
            await self._client.create_collection(
                self._name,
                # Vectors are of unit length, so a dot product would do; but cosine keeps scores
                # cosines whatever the encoder's rounding.
                vectors_config=models.VectorParams(
                    size=self._card.embedding_dim,
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
                metadata={_METADATA_KEY: asdict(self._card)},
            )
        except grpc.aio.AioRpcError as error:
            # Two servers started at once, and the other was faster. (Before Qdrant 1.8 the code was
            # another; that is older than what we take.)
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    def _search_params(self, *, exact: bool) -> models.SearchParams | None:
        if exact:
            compressed = models.QuantizationSearchParams(ignore=True)
        elif self._quantized:
            compressed = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
        else:
            return None
        return models.SearchParams(exact=exact, quantization=compressed)

    async def _create_indexes(self, info: models.CollectionInfo, *, wait: bool) -> None:
        for field in without_index(self._fields, info.payload_schema):
            creation = self._client.create_payload_index(
                self._name, field.field, FIELD_SCHEMAS[field.type], wait=wait
            )
            await (completed(creation) if wait else creation)

    def _require_known(self, filter: Filter) -> None:
        if self._is_older(_MIN_VERSION_PREFIX) and any(
            isinstance(condition, Prefix) for condition in leaves(filter)
        ):
            raise FilterRefused(
                f"has a prefix, which {self._where} cannot test: version {self.server_version} of "
                f"Qdrant does not know it; {_or_later(_MIN_VERSION_PREFIX)} does"
            )

    def _require(self, minimum: tuple[int, int], lack: str) -> None:
        if self._is_older(minimum):
            raise IndexUnavailable(
                f"{self._where}: version {self.server_version} {lack}; it takes "
                f"{_or_later(minimum)}"
            )

    def _is_older(self, minimum: tuple[int, int]) -> bool:
        match = re.match(r"(\d+)\.(\d+)", self.server_version)
        return match is not None and (int(match[1]), int(match[2])) < minimum


def _or_later(version: tuple[int, int]) -> str:
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
