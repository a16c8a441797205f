"""Which images may be hits, by what is stored with them: a tree of conditions.

A field is a path into what `indexes/points.py` stores: one of the image's own fields, by its name
in `StoredImage`, or ``metadata.`` and a path in Qdrant's form (a dot leads into an object, ``[]``
into each element of a list, names with other characters than letters, digits, ``_`` and ``-`` are
quoted). Of a list, a condition holds if it holds for an element; a value of another type than the
condition's, or none, does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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


Leaf: TypeAlias = MatchAny | NumberRange | TimeRange | Exists | Prefix
Condition: TypeAlias = Leaf | Filter


# A name, and `[]` after it. Letters are what is not ASCII too: nobody agrees on which of it are.
# Qdrant has no way to quote a quote or a backslash.
_STEP = re.compile(r'(?:"([^"\\]*)"|([A-Za-z0-9_\-\u0080-\U0010ffff]+))((?:\[\])*)')
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def path_steps(path: str) -> tuple[str | None, ...]:
    """Splits a path into the names of objects' members, and None for each ``[]``.

    Raises ValueError if it is malformed.
    """
    steps: list[str | None] = []
    position = 0
    while match := _STEP.match(path, position):
        quoted, plain, brackets = match.groups()
        steps.append(plain if quoted is None else quoted)
        steps += [None] * (len(brackets) // 2)
        position = match.end()
        if position == len(path):
            return tuple(steps)
        if path[position] != ".":
            break
        position += 1
    raise ValueError(f"not a path: {path!r}")


def to_path(steps: Sequence[str | None]) -> str:
    """Writes steps, the first of which is a name, in the one way that all stores read alike."""
    path = ""
    for step in steps:
        if step is None:
            path += "[]"
        else:
            path += "." * bool(path) + (step if _PLAIN.fullmatch(step) else f'"{step}"')
    return path


def leaves(filter: Filter) -> Iterator[Leaf]:
    """Yields the conditions of a filter, and of the filters within it, that test a field."""
    for condition in (*filter.must, *filter.should, *filter.must_not):
        if isinstance(condition, Filter):
            yield from leaves(condition)
        else:
            yield condition
