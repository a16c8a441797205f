"""What the server and its index processes say to each other, and how it crosses the channel.

The channel is an anonymous socket pair between a process and the child that it started from the
same installation. Nobody else can reach it, so messages are pickled: that keeps embeddings as raw
float32 bytes and payloads as they are. A frame is its length (4 bytes, big endian) and its pickle.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np

from clipsearch_server.filters import Filter
from clipsearch_server.indexes.points import Payload
from clipsearch_server.ports import Embeddings, IndexedField, NearestQuery

# A message carries at most so many points. A write, or a page of a copy, is what a query may have
# to wait for: 32 points of 512 dimensions take Edge 2 to 4 ms. Larger batches store no faster,
# because turning Python values into points is most of the cost.
MAX_POINTS = 32

# So many queries together cost half as much each as one by one, more gain nothing (tried), and
# whatever comes next waits for them.
MAX_QUERIES = 8

READY = 0  # the id of the reply that a process sends unasked, once its shard is open

_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size


@dataclass(frozen=True, slots=True)
class Points:
    """Points with everything: what is written, and what is copied between shards."""

    ids: Sequence[UUID]
    vectors: Embeddings  # (len(ids), d)
    payloads: Sequence[Payload]


# Requests that read, each answered as soon as possible. ----------------------------------------


# Ids and scores, best first; with the payloads, if only the first hits were asked for.
Hits: TypeAlias = "list[tuple[UUID, float, Payload | None]]"


@dataclass(frozen=True, slots=True)
class Search:
    """-> for each query its Hits."""

    queries: Sequence[NearestQuery]  # at most MAX_QUERIES
    hnsw_ef: int

    def __reduce__(self) -> tuple[object, ...]:
        # As plain values: pickled by themselves, dataclasses and numpy take five times as long.
        queries = [
            (
                query.embedding.tobytes(),
                query.limit,
                query.first,
                query.score_threshold,
                query.filter,
                query.exclude,
                query.exact,
            )
            for query in self.queries
        ]
        return _search, (queries, self.hnsw_ef)


# Embedding, limit, first, score_threshold, filter, exclude and exact.
_Query: TypeAlias = tuple[
    bytes, int, int | None, float | None, Filter | None, tuple[UUID, ...], bool
]


def _search(queries: Sequence[_Query], hnsw_ef: int) -> Search:
    return Search(
        [
            NearestQuery(
                embedding=np.frombuffer(embedding, np.float32),
                limit=limit,
                first=first,
                score_threshold=score_threshold,
                filter=filter,
                exclude=exclude,
                exact=exact,
            )
            for embedding, limit, first, score_threshold, filter, exclude, exact in queries
        ],
        hnsw_ef,
    )


@dataclass(frozen=True, slots=True)
class Get:
    """-> list of (id, payload), in no order; unknown ids are left out."""

    ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class GetEmbeddings:
    """-> dict of id to embedding, (d,) float32; unknown ids are left out."""

    ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class Find:
    """-> list of at most one (id, payload) of this id, and one of the lowest id of this content."""

    image_id: UUID
    sha256: str


@dataclass(frozen=True, slots=True)
class Scroll:
    """-> (list of (id, payload) ordered by id, the id after them or None)."""

    limit: int
    start_id: UUID | None


@dataclass(frozen=True, slots=True)
class Count:
    """-> number of points, exactly."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Sent under the id of a request that reads, whose caller has gone: if it is still waiting, it
    is answered with None and no work. Has no answer of its own."""


@dataclass(frozen=True, slots=True)
class GetStats:
    """-> Stats. Costs nothing, and goes before all that waits."""


@dataclass(frozen=True, slots=True)
class Probe:
    """-> None, once a search was answered. Goes before all that waits: it asks whether searches
    work, and not how many there are."""

    query: NearestQuery


@dataclass(frozen=True, slots=True)
class Stats:
    """What a query has to go through one by one, and what it need not."""

    points: int
    indexed: int  # of them, reached through the search graph
    indexed_fields: frozenset[str]  # the paths that have an index


# Requests answered in the order of their arrival. -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Upsert:
    """-> None, once the points are in the write-ahead log."""

    points: Points  # at most MAX_POINTS


@dataclass(frozen=True, slots=True)
class Delete:
    """-> None, once the deletion is in the write-ahead log."""

    ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class CopyPage:
    """-> (Points ordered by id, the id after them or None)."""

    limit: int
    start_id: UUID | None


@dataclass(frozen=True, slots=True)
class CopyIds:
    """-> Points; ids that are not stored are left out."""

    ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class Flush:
    """-> None, once everything written so far survives a power loss."""


@dataclass(frozen=True, slots=True)
class CreateIndex:
    """-> None, once an index on a field is complete, if there was none. Takes 15 to 50 us a point,
    and answers nothing else meanwhile."""

    field: IndexedField


@dataclass(frozen=True, slots=True)
class Optimize:
    """-> None, once the search graph is built and on disk. Takes minutes and answers nothing
    else meanwhile."""


OtherRead: TypeAlias = Get | GetEmbeddings | Find | Scroll | Count | GetStats | Probe
Read: TypeAlias = Search | OtherRead
Ordered: TypeAlias = Upsert | Delete | CopyPage | CopyIds | Flush | CreateIndex | Optimize
Request: TypeAlias = Read | Ordered


def frame(message_id: int, content: object) -> bytes:
    """Returns a request, or the reply of that id: a value, or the exception that it failed with."""
    body = pickle.dumps((message_id, content), protocol=5)
    return _LENGTH.pack(len(body)) + body


def body_length(prefix: bytes | bytearray) -> int:
    """Reads the first LENGTH_BYTES of a frame."""
    length: int = _LENGTH.unpack_from(prefix)[0]
    return length


def unframe(body: bytes | bytearray | memoryview) -> tuple[int, Any]:
    """Returns the id and the content of a frame without its length."""
    message: tuple[int, Any] = pickle.loads(body)
    return message
