"""Filters and indexes on fields in the types of qdrant_client."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from qdrant_client import models

from clipsearch_server.ports import FieldType

Condition: TypeAlias = models.FieldCondition | models.IsEmptyCondition | models.HasIdCondition

FIELD_SCHEMAS: dict[FieldType, models.PayloadSchemaType | models.KeywordIndexParams] = {
    FieldType.KEYWORD: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True),
    FieldType.NUMBER: models.PayloadSchemaType.FLOAT,
    FieldType.BOOL: models.PayloadSchemaType.BOOL,
    FieldType.TIME: models.PayloadSchemaType.DATETIME,
}


class QdrantWords:
    """Implements Words."""

    def filter(
        self,
        must: Sequence[models.Filter | Condition],
        should: Sequence[models.Filter | Condition],
        must_not: Sequence[models.Filter | Condition],
    ) -> models.Filter:
        return models.Filter(must=[*must], should=[*should], must_not=[*must_not])

    def has_id(self, ids: Sequence[UUID]) -> Condition:
        return models.HasIdCondition(has_id=[*ids])

    def is_empty(self, field: str) -> Condition:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=field))

    def equals(self, field: str, value: str | bool) -> Condition:
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))

    def equals_any(self, field: str, values: Sequence[str]) -> Condition:
        return models.FieldCondition(key=field, match=models.MatchAny(any=[*values]))

    def starts_with(self, field: str, prefix: str) -> Condition:
        return models.FieldCondition(key=field, match=models.MatchPrefix(prefix=prefix))

    def numbers(
        self,
        field: str,
        *,
        gt: float | None,
        gte: float | None,
        lt: float | None,
        lte: float | None,
    ) -> Condition:
        return models.FieldCondition(key=field, range=models.Range(gt=gt, gte=gte, lt=lt, lte=lte))

    def times(
        self,
        field: str,
        *,
        gt: datetime | None,
        gte: datetime | None,
        lt: datetime | None,
        lte: datetime | None,
    ) -> Condition:
        return models.FieldCondition(
            key=field, range=models.DatetimeRange(gt=gt, gte=gte, lt=lt, lte=lte)
        )
