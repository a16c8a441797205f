"""A filter of the domain in the words of Qdrant, which Edge and qdrant_client each have types for.

So both find the same. What Qdrant does differently from `filters`, and is made up for here:

* It matches strings, truth values and whole numbers by value, other numbers by range only.
* It reads a number back with an error of up to two units in its last place, and in an index may
  have it without (tried on Edge 0.9), so a bound is as wide as makes equal numbers equal.
* An index on times takes a range of numbers for one of times (tried); no number is in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from clipsearch_server.filters import (
    Condition,
    Exists,
    Filter,
    MatchAny,
    NumberRange,
    Prefix,
    TimeRange,
)

_F = TypeVar("_F")  # a filter, which is a condition too
_C = TypeVar("_C")  # any other condition

_ULPS = 4
_MAY_BE_EMPTY = ("url", "uri")  # the image's own fields that are "" where there is none


class Words(Protocol[_F, _C]):
    """Filters and conditions as one of Qdrant's libraries has them. A field is a JSON path."""

    def filter(
        self, must: Sequence[_F | _C], should: Sequence[_F | _C], must_not: Sequence[_F | _C]
    ) -> _F: ...

    def has_id(self, ids: Sequence[UUID]) -> _C: ...

    def is_empty(self, field: str) -> _C:
        """There is no value, null, or an empty list."""
        ...

    def equals(self, field: str, value: str | bool) -> _C: ...

    def equals_any(self, field: str, values: Sequence[str]) -> _C: ...

    def starts_with(self, field: str, prefix: str) -> _C: ...

    def numbers(
        self,
        field: str,
        *,
        gt: float | None,
        gte: float | None,
        lt: float | None,
        lte: float | None,
    ) -> _C: ...

    def times(
        self,
        field: str,
        *,
        gt: datetime | None,
        gte: datetime | None,
        lt: datetime | None,
        lte: datetime | None,
    ) -> _C: ...


class Translator(Generic[_F, _C]):
    """Writes the filters of a search in some words. ``time_fields`` have an index on times."""

    def __init__(self, words: Words[_F, _C], *, time_fields: Collection[str]) -> None:
        self._words = words
        self._time_fields = time_fields
        self._written: dict[tuple[int, tuple[UUID, ...]], _F | None] = {}

    def passing(self, filter: Filter | None, exclude: tuple[UUID, ...]) -> _F | None:
        """Returns what lets those images pass that pass the filter and are not excluded; None, if
        all do. Queries that are answered together often share theirs: it is written once."""
        key = (id(filter), exclude)
        if key not in self._written:
            self._written[key] = self._passing(filter, exclude)
        return self._written[key]

    def _passing(self, filter: Filter | None, exclude: Sequence[UUID]) -> _F | None:
        if not exclude:
            return None if filter is None else self._filter(filter)
        must = [] if filter is None else [self._filter(filter)]
        return self._words.filter(must, [], [self._words.has_id(exclude)])

    def _filter(self, filter: Filter) -> _F:
        return self._words.filter(
            [self._condition(it) for it in filter.must],
            [self._condition(it) for it in filter.should],
            [self._condition(it) for it in filter.must_not],
        )

    def _condition(self, condition: Condition) -> _F | _C:
        match condition:
            case Filter():
                return self._filter(condition)
            case MatchAny(field, values):
                return self._match_any(field, values)
            case NumberRange():
                return self._numbers(condition)
            case TimeRange(field=field, gt=gt, gte=gte, lt=lt, lte=lte):
                return self._words.times(field, gt=gt, gte=gte, lt=lt, lte=lte)
            case Exists(field):
                absent = [self._words.is_empty(field)]
                if field in _MAY_BE_EMPTY:
                    absent.append(self._words.equals(field, ""))
                return self._words.filter([], [], absent)
            case Prefix(field, prefix):
                return self._words.starts_with(field, prefix)

    def _match_any(self, field: str, values: Sequence[str | bool | float]) -> _F | _C:
        strings = [value for value in values if isinstance(value, str)]
        if strings:
            return self._words.equals_any(field, strings)
        return self._words.filter([], [self._match(field, value) for value in values], [])

    def _match(self, field: str, value: str | bool | float) -> _C:
        if isinstance(value, str | bool):
            return self._words.equals(field, value)
        return self._numbers(NumberRange(field=field, gte=value, lte=value))

    def _numbers(self, bounds: NumberRange) -> _C:
        if bounds.field in self._time_fields:
            return self._words.has_id([])
        return self._words.numbers(
            bounds.field,
            gt=None if bounds.gt is None else _above(bounds.gt),
            gte=None if bounds.gte is None else _below(bounds.gte),
            lt=None if bounds.lt is None else _below(bounds.lt),
            lte=None if bounds.lte is None else _above(bounds.lte),
        )


def _above(number: float) -> float:
    for _ in range(_ULPS):
        number = math.nextafter(number, math.inf)
    return number


def _below(number: float) -> float:
    return -_above(-number)
