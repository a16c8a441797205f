"""Which images may be hits, by what is stored with them.

>>> Filter(
...     must=[Match("colour", "red"), Range("width_px", gte=640)],
...     must_not=[Prefix("uri", "https://example.com/drafts/")],
... )

A field is one of the image's own (``url``, ``uri``, ``sha256``, ``media_type``, ``width_px``,
``height_px``, ``size_bytes``, ``create_time``, ``update_time``, ``duplicate_of``) or a path into
its metadata: a dot leads into an object, ``[]`` into each element of a list, a name with anything
but letters, digits, ``_`` and ``-`` is quoted, and ``metadata.`` before a name says that it is
metadata where an own field has that name. Of a list, a condition holds if it holds for one element;
a value of another type than the condition's, or none, does not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

Value: TypeAlias = str | bool | int | float


@dataclass(frozen=True, slots=True)
class Match:
    """The value is equal to this one; all numbers are one type."""

    field: str
    value: Value


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The value is equal to one of these: one at least, all of one type."""

    field: str
    values: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.values, str):
            raise TypeError("values is a string; give a sequence of them")
        object.__setattr__(self, "values", tuple(self.values))


@dataclass(frozen=True, slots=True)
class Range:
    """The value is a number, or a time, within these bounds.

    Times have a time zone; metadata is a time if it is a string in the form of RFC 3339. Raises
    TypeError if some bounds are numbers and others times, and ValueError if there is no bound or a
    time has no time zone.
    """

    field: str
    gt: float | datetime | None = None
    gte: float | datetime | None = None
    lt: float | datetime | None = None
    lte: float | datetime | None = None

    def __post_init__(self) -> None:
        bounds = [it for it in (self.gt, self.gte, self.lt, self.lte) if it is not None]
        if not bounds:
            raise ValueError(f"the range of {self.field} has no bound")
        times = [it for it in bounds if isinstance(it, datetime)]
        if times and len(times) < len(bounds):
            raise TypeError(f"the range of {self.field} has a number and a time for bounds")
        if any(time.utcoffset() is None for time in times):
            raise ValueError(f"a time in the range of {self.field} has no time zone")


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether there is a value: neither null nor an empty list, nor, of an image's own field, an
    empty string."""

    field: str
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Prefix:
    """The value is a string that starts so, in the same case."""

    field: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All of ``must`` hold, none of ``must_not``, and one of ``should`` at least, if there are any;
    an empty filter lets every image pass. A filter is itself a condition for another."""

    must: Sequence[Condition] = ()
    should: Sequence[Condition] = ()
    must_not: Sequence[Condition] = ()

    def __post_init__(self) -> None:
        for name in ("must", "should", "must_not"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


Condition: TypeAlias = Match | AnyOf | Range | Exists | Prefix | Filter
