"""One Qdrant Edge shard on disk. The only module that calls qdrant_edge; filters.py has its types.

Every call into qdrant_edge holds Python's global interpreter lock until it returns, so only an
index process (process.py) imports this module.

How durable is a write? Edge appends it to a write-ahead log that is a shared memory map, and does
not fsync. So it survives the SIGKILL of every process at once: the kernel has the pages. A power
loss or a kernel panic may take what was written since the last ``flush``, which does fsync; the
process calls it when idle for a second, and after five minutes or 10,000 points if it never is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from clipsearch_server.cores import cores
from clipsearch_server.errors import IndexUnavailable, StartupError, StorageFull
from clipsearch_server.filters import path_steps, to_path
from clipsearch_server.indexes.edge.durable import replace_file
from clipsearch_server.indexes.edge.filters import FIELD_SCHEMAS, EdgeWords, require_affordable
from clipsearch_server.indexes.edge.protocol import Points, Stats
from clipsearch_server.indexes.filters import Translator
from clipsearch_server.indexes.points import CONTENT_KEY, Payload, best_first
from clipsearch_server.ports import Embedding, IndexedField, NearestQuery

Entry: TypeAlias = tuple[UUID, Payload]

# Edge writes through sparse memory maps: on a full disk the kernel answers with SIGBUS, which kills
# the process (tried). So a write is refused while there is still room for it, for a flush, and for
# what others write at the same time.
_SPARE_BYTES = 64 * 2**20

# The floor is lowered by more than the deletion at hand, so that few deletions have to wait for it.
_FLOOR_STEP = 1000

_FULL = ("No space left on device", "Disk quota exceeded")  # strerror of ENOSPC and EDQUOT


class Shard:
    """A shard in a folder of its own, with a floor: a number of points that it must not be without.

    Edge opens a shard whose files were lost or cut and serves what is left, without a word (tried).
    The floor, kept beside the shard, is raised after a flush and lowered before a deletion, so a
    shard that opens with fewer points is damaged.
    """

    def __init__(self, folder: Path, shard: edge.EdgeShard, floor: int) -> None:
        self._folder = folder
        self._shard = shard
        self._floor = floor  # as on disk
        self._least_points = shard.count(edge.CountRequest())
        self._note_indexes()
        if self._least_points < floor:
            raise StartupError(
                f"{folder}: holds {self._least_points} of at least {floor} images, so files were "
                "damaged or removed; put back a copy, or move the folder away to start anew"
            )

    @classmethod
    def create(cls, folder: Path, embedding_dim: int) -> Shard:
        """Creates an empty shard. Raises StorageFull, or IndexUnavailable if the folder exists."""
        with _explained():
            folder.mkdir()
            shard = edge.EdgeShard.create(str(folder / "edge"), _config(embedding_dim))
            shard.update(
                edge.UpdateOperation.create_field_index(CONTENT_KEY, edge.PayloadSchemaType.Keyword)
            )
        return cls(folder, shard, floor=0)

    @classmethod
    def open(cls, folder: Path) -> Shard:
        """Opens a shard, replaying what its log has on top of the last flush (13,000 points/s).

        Raises StartupError naming the folder or file if it is damaged.
        """
        path = folder / "edge"
        for name in ("edge_config.json", "segments", "wal"):
            if not (path / name).exists():
                raise StartupError(f"{path / name}: is missing; put back a copy of {folder}")
        floor = _read_floor(folder / "floor")
        # Given anew: the number of cores may not be that of the machine that created it.
        config = _config(_read_embedding_dim(path / "edge_config.json"))
        try:
            shard = edge.EdgeShard.load(str(path), config)
        except Exception as error:  # the only type that qdrant_edge raises
            raise StartupError(
                f"{path}: cannot be opened: {error}; mend that, or put back a copy of {folder}"
            ) from error
        return cls(folder, shard, floor)

    def close(self) -> None:
        self.flush()
        with _explained():
            self._shard.close()

    def flush(self) -> None:
        """Makes everything written so far survive a power loss. Takes 50 to 500 ms."""
        with _explained():
            self._shard.flush()
            self._least_points = self._shard.count(edge.CountRequest())
        self._set_floor(self._least_points)

    def optimize(self) -> None:
        """Builds the search graph over all points, and flushes."""
        with _explained():
            self._shard.optimize()
        self.flush()

    def create_index(self, field: IndexedField) -> None:
        """Creates an index, unless the field has one. Raises StorageFull, IndexUnavailable."""
        if field.field not in self._indexed:
            schema = FIELD_SCHEMAS[field.type]
            self._update(edge.UpdateOperation.create_field_index(field.field, schema))
            self._note_indexes()

    def convert(self, points: Points) -> list[edge.Point]:
        """Raises ValueError if a payload has a value that Edge cannot store."""
        try:
            return [
                edge.Point(point_id, vector, payload)
                for point_id, vector, payload in zip(
                    points.ids, points.vectors.tolist(), points.payloads, strict=True
                )
            ]
        except Exception as error:
            raise ValueError(f"a payload cannot be stored: {error}") from error

    def upsert(self, points: list[edge.Point]) -> None:
        """Stores points, the last of those with one id. Raises StorageFull, IndexUnavailable."""
        self._update(edge.UpdateOperation.upsert_points(points))

    def delete(self, ids: Sequence[UUID]) -> None:
        """Raises StorageFull, IndexUnavailable."""
        self._least_points = max(0, self._least_points - len(ids))
        if self._least_points < self._floor:
            self._set_floor(max(0, self._least_points - _FLOOR_STEP))
        self._update(edge.UpdateOperation.delete_points(list(ids)))

    def convert_queries(
        self, queries: Sequence[NearestQuery], hnsw_ef: int | None = None
    ) -> list[edge.QueryRequest]:
        """``hnsw_ef``: candidates that a search of the graph keeps, at least its limit; None: as
        many as when the graph was built.

        Raises FilterRefused if a filter costs too much, ValueError if Edge cannot take one.
        """
        if filters := [query.filter for query in queries if query.filter is not None]:
            points = self.count()
            for filter in filters:
                require_affordable(filter, indexed=self._indexed, points=points)
        translator = Translator(EdgeWords(), time_fields=self._time_fields)
        try:
            return [
                edge.QueryRequest(
                    query=edge.Query.Nearest(query.embedding.tolist()),
                    limit=query.limit,
                    score_threshold=query.score_threshold,
                    filter=translator.passing(query.filter, query.exclude),
                    params=edge.SearchParams(hnsw_ef=hnsw_ef, exact=query.exact),
                )
                for query in queries
            ]
        except Exception as error:
            raise ValueError(f"a query cannot be asked: {error}") from error

    def search(
        self, requests: list[edge.QueryRequest], firsts: Sequence[int | None]
    ) -> list[list[tuple[UUID, float]]]:
        """Answers queries together, each with as many hits as are wanted first, or all that its
        limit allows."""
        with _explained():
            answers = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return [_first(points, first) for points, first in zip(answers, firsts, strict=True)]

    def get_embeddings(self, ids: Sequence[UUID]) -> dict[UUID, Embedding]:
        with _explained():
            points = _points(self._shard.retrieve(list(ids), False, True))
        return dict(zip(points.ids, points.vectors, strict=True))

    def get(self, ids: Sequence[UUID]) -> list[Entry]:
        with _explained():
            return [_entry(record) for record in self._shard.retrieve(list(ids), True, False)]

    def find_content(self, sha256: str) -> list[Entry]:
        match = edge.FieldCondition(key=CONTENT_KEY, match=edge.MatchValue(sha256))
        records, _ = self._scroll(limit=1, filter=edge.Filter(must=[match]))
        return [_entry(record) for record in records]

    def scroll(self, limit: int, start_id: UUID | None) -> tuple[list[Entry], UUID | None]:
        records, next_id = self._scroll(limit=limit, offset=start_id)
        return [_entry(record) for record in records], next_id

    def count(self) -> int:
        with _explained():
            return self._shard.count(edge.CountRequest())

    def stats(self) -> Stats:
        with _explained():
            info = self._shard.info()
        return Stats(
            points=info.points_count,
            indexed=info.indexed_vectors_count,
            indexed_fields=self._indexed,
        )

    def copy_page(self, limit: int, start_id: UUID | None) -> tuple[Points, UUID | None]:
        records, next_id = self._scroll(limit=limit, offset=start_id, with_vector=True)
        return _points(records), next_id

    def copy_ids(self, ids: Sequence[UUID]) -> Points:
        with _explained():
            return _points(self._shard.retrieve(list(ids), True, True))

    def _scroll(
        self,
        *,
        limit: int,
        offset: UUID | None = None,
        filter: edge.Filter | None = None,
        with_vector: bool = False,
    ) -> tuple[list[edge.Record], UUID | None]:
        with _explained():
            records, next_id = self._shard.scroll(
                edge.ScrollRequest(
                    limit=limit,
                    offset=offset,
                    filter=filter,
                    with_payload=True,
                    with_vector=with_vector,
                )
            )
        return records, None if next_id is None else _uuid(next_id)

    def _update(self, operation: edge.UpdateOperation) -> None:
        space = os.statvfs(self._folder)
        if space.f_bavail * space.f_frsize < _SPARE_BYTES:
            raise StorageFull(
                f"less than {_SPARE_BYTES >> 20} MiB are free on the disk of the index"
            )
        with _explained():
            self._shard.update(operation)

    def _note_indexes(self) -> None:
        with _explained():
            schema = self._shard.info().payload_schema
        fields = {to_path(path_steps(key)): index.data_type for key, index in schema.items()}
        self._indexed = frozenset(fields)
        self._time_fields = {
            field for field, kind in fields.items() if kind == edge.PayloadSchemaType.Datetime
        }

    def _set_floor(self, points: int) -> None:
        if points != self._floor:
            with _explained():
                replace_file(self._folder / "floor", f"{points}\n")
            self._floor = points


def _config(embedding_dim: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        # Cosine is Dot after Edge has divided each vector by its length; on unit vectors both cost
        # and score the same. It keeps the score a cosine whatever the encoder's rounding.
        vectors=edge.EdgeVectorParams(size=embedding_dim, distance=edge.Distance.Cosine),
        # Qdrant's defaults for the graph. Half of the cores build it; queries have the others.
        hnsw_config=edge.HnswIndexConfig(
            m=16,
            ef_construct=100,
            full_scan_threshold=10_000,
            max_indexing_threads=max(1, cores() // 2),
        ),
        max_search_threads=cores(),  # Edge's default is eight, and they wait for each other busily
        # optimize() is only ever called to get the graph, however few the points.
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1),
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Raises what fails inside as StorageFull or IndexUnavailable."""
    try:
        yield
    except Exception as error:  # the only type that qdrant_edge raises
        if any(text in str(error) for text in _FULL):
            raise StorageFull("the disk of the index is full") from error
        raise IndexUnavailable(f"the index failed: {error}") from error


def _read_floor(file: Path) -> int:
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return 0  # created, and never flushed
    except ValueError as error:
        raise StartupError(f"{file}: is not a number; put back a copy") from error


def _read_embedding_dim(file: Path) -> int:
    try:
        return int(json.loads(file.read_bytes())["vectors"][""]["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{file}: is no configuration of Edge's; put back a copy") from error


def _first(points: list[edge.ScoredPoint], first: int | None) -> list[tuple[UUID, float]]:
    if first is not None and first < len(points):
        # Only of those that may be among the first: reading an id takes 3 us.
        scores = [point.score for point in points]
        least = sorted(scores, reverse=True)[first - 1]
        points = [it for it, score in zip(points, scores, strict=True) if score >= least]
    return best_first((_uuid(it.id), it.score) for it in points)[:first]


def _entry(record: edge.Record) -> Entry:
    return _uuid(record.id), record.payload or {}


def _points(records: Sequence[edge.Record]) -> Points:
    vectors: list[Any] = [record.vector for record in records]
    return Points(
        ids=[_uuid(record.id) for record in records],
        vectors=np.array(vectors, dtype=np.float32),
        payloads=[record.payload or {} for record in records],
    )


def _uuid(point_id: edge.PointId) -> UUID:
    assert isinstance(point_id, UUID)  # we store no other kind
    return point_id
