"""A collection in Qdrant that is used: its indexes on fields, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import AsyncQdrantClient, models

from clipsearch_server.errors import FilterRefused
from clipsearch_server.filters import Filter, Prefix, leaves
from clipsearch_server.indexes.fields import IMAGE_FIELDS, without_index
from clipsearch_server.indexes.filters import Translator
from clipsearch_server.indexes.points import CONTENT_KEY, checked_embedding
from clipsearch_server.indexes.qdrant.collection import Collection, is_older, or_later
from clipsearch_server.indexes.qdrant.faults import completed
from clipsearch_server.indexes.qdrant.filters import FIELD_SCHEMAS, QdrantWords
from clipsearch_server.ports import CollectionSpec, FieldType, IndexedField, NearestQuery

_MIN_VERSION_PREFIX = (1, 19)

# So many times what is asked for is found by compressed vectors, and scored anew by the originals.
_OVERSAMPLING = 2.0


class OpenCollection:
    """A collection of a Qdrant of this version, which holds embeddings of the spec's model.

    A search of the graph keeps the best ``hnsw_ef`` points that it meets, or as many as it is to
    find.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        name: str,
        *,
        spec: CollectionSpec,
        address: str,
        server_version: str,
        hnsw_ef: int,
    ) -> None:
        self._client = client
        self._name = name
        self._spec = spec
        self._address = address
        self._server_version = server_version
        self._hnsw_ef = hnsw_ef
        self._collection = Collection(client, name, address=address)
        self._fields = (*IMAGE_FIELDS, *spec.indexed_fields)
        self._quantized = False

    async def open(self) -> None:
        """Checks the collection, and creates the indexes on its fields that are missing.

        Raises ModelMismatch if it holds anything but the model's embeddings. Cut short, it may be
        repeated.
        """
        info = await self.check()
        if CONTENT_KEY not in info.payload_schema:
            await self._client.create_payload_index(
                self._name, CONTENT_KEY, models.PayloadSchemaType.KEYWORD, wait=True
            )
        # In a large collection of an earlier version, Qdrant builds these while it serves us.
        await self._create_indexes(info, wait=False)
        self._quantized = info.config.quantization_config is not None

    async def check(self) -> models.CollectionInfo:
        """Raises ModelMismatch if the collection holds anything but the model's embeddings."""
        return await self._collection.check(self._spec)

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
                query=checked_embedding(query.embedding, self._spec.embedding_dim).tolist(),
                limit=query.limit,
                score_threshold=query.score_threshold,
                filter=translator.passing(query.filter, query.exclude),
                params=self._search_params(exact=query.exact),
                with_payload=False,
            )
            for query in queries
        ]

    def _search_params(self, *, exact: bool) -> models.SearchParams:
        if exact:
            compressed = models.QuantizationSearchParams(ignore=True)
            return models.SearchParams(exact=True, quantization=compressed)
        return models.SearchParams(
            hnsw_ef=self._hnsw_ef,
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
            if self._quantized
            else None,
        )

    async def _create_indexes(self, info: models.CollectionInfo, *, wait: bool) -> None:
        for field in without_index(self._fields, info.payload_schema):
            creation = self._client.create_payload_index(
                self._name, field.field, FIELD_SCHEMAS[field.type], wait=wait
            )
            await (completed(creation) if wait else creation)

    def _require_known(self, filter: Filter) -> None:
        if is_older(self._server_version, _MIN_VERSION_PREFIX) and any(
            isinstance(condition, Prefix) for condition in leaves(filter)
        ):
            raise FilterRefused(
                f"has a prefix, which Qdrant at {self._address} cannot test: its version "
                f"{self._server_version} does not know it; {or_later(_MIN_VERSION_PREFIX)} does"
            )
