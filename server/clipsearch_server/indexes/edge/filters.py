"""Filters and indexes on fields in the types of Qdrant Edge; only for `shard.py`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from clipsearch_server.errors import FilterRefused
from clipsearch_server.filters import Filter, Leaf, MatchAny, leaves
from clipsearch_server.ports import FieldType

Condition: TypeAlias = "edge.FieldCondition | edge.IsEmptyCondition | edge.HasIdCondition"

# Without an index on its field, a condition is tested on point after point, 2 to 3 us each (tried),
# and nothing can stop a search that has begun. So many tests are a few seconds.
_MAX_TESTS = 2_000_000
_MIN_TESTS_A_POINT = 4  # however many points there are

FIELD_SCHEMAS: dict[FieldType, edge.KeywordIndexParams | edge.PayloadSchemaType] = {
    FieldType.KEYWORD: edge.KeywordIndexParams(prefix=True),
    FieldType.NUMBER: edge.PayloadSchemaType.Float,
    FieldType.BOOL: edge.PayloadSchemaType.Bool,
    FieldType.TIME: edge.PayloadSchemaType.Datetime,
}


class EdgeWords:
    """Implements Words. Raises ValueError if a field is not a path, which no other does."""

    def filter(
        self,
        must: Sequence[edge.Filter | Condition],
        should: Sequence[edge.Filter | Condition],
        must_not: Sequence[edge.Filter | Condition],
    ) -> edge.Filter:
        return edge.Filter(must=[*must], should=[*should], must_not=[*must_not])

    def has_id(self, ids: Sequence[UUID]) -> Condition:
        return edge.HasIdCondition({*ids})

    def is_empty(self, field: str) -> Condition:
        return edge.IsEmptyCondition(field)

    def equals(self, field: str, value: str | bool) -> Condition:
        # Edge 0.9 takes a bool of Python's for the number that it is as well (tried).
        known = np.bool_(value) if isinstance(value, bool) else value
        return edge.FieldCondition(field, match=edge.MatchValue(known))  # type: ignore[arg-type]

    def equals_any(self, field: str, values: Sequence[str]) -> Condition:
        return edge.FieldCondition(field, match=edge.MatchAny([*values]))

    def starts_with(self, field: str, prefix: str) -> Condition:
        return edge.FieldCondition(field, match=edge.MatchPrefix(prefix))

    def numbers(
        self,
        field: str,
        *,
        gt: float | None,
        gte: float | None,
        lt: float | None,
        lte: float | None,
    ) -> Condition:
        return edge.FieldCondition(field, range=edge.RangeFloat(gt=gt, gte=gte, lt=lt, lte=lte))

    def times(
        self,
        field: str,
        *,
        gt: datetime | None,
        gte: datetime | None,
        lt: datetime | None,
        lte: datetime | None,
    ) -> Condition:
        bounds = edge.RangeDateTime(
            gt=_rfc3339(gt), gte=_rfc3339(gte), lt=_rfc3339(lt), lte=_rfc3339(lte)
        )
        return edge.FieldCondition(field, range=bounds)


def require_affordable(filter: Filter, *, indexed: Collection[str], points: int) -> None:
    """Raises FilterRefused if a filter might take far too long, given the fields with an index."""
    tested = [it for it in leaves(filter) if it.field not in indexed]
    tests = sum(map(_tests, tested))
    if tests > _MIN_TESTS_A_POINT and tests * points > _MAX_TESTS:
        fields = ", ".join(sorted({it.field for it in tested})[:3])
        raise FilterRefused(
            f"tests fields without an index {tests} times for each of {points} images, which takes "
            f"too long; have them indexed in the collection ({fields}), or test less"
        )


def _tests(condition: Leaf) -> int:
    """How many of Edge's conditions it comes to."""
    if isinstance(condition, MatchAny) and not isinstance(condition.values[0], str):
        return len(condition.values)
    return 1


def _rfc3339(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="microseconds")
