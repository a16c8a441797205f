"""Which images may be hits, by what is stored with them: a tree of conditions.

A field is a path into what `indexes/points.py` stores: one of the image's own fields, by its name
in `StoredImage`, or ``metadata.`` and a path in Qdrant's form (a dot leads into an object, ``[]``
into each element of a list, names with other characters than letters, digits, ``_`` and ``-`` are
quoted). Of a list, a condition holds if it holds for an element; a value of another type than the
condition's, or none, does not pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class MatchAny:
    """The value equals one of these, which are of one type: all numbers are one."""

    field: str
    values: tuple[str, ...] | tuple[bool, ...] | tuple[float, ...]  # not empty


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRange:
    """The value is a number within the bounds that are set, one of them at least."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRange:
    """The value is a time within the bounds that are set, one of them at least; all aware."""

    field: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """There is a value: not null, not an empty list, and, of an image's own field, not an empty
    string."""

    field: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """The value is a string that starts so."""

    field: str
    prefix: str  # not empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All of ``must`` hold, none of ``must_not``, and one of ``should`` if there are any."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


Condition: TypeAlias = MatchAny | NumberRange | TimeRange | Exists | Prefix | Filter
