"""What `clipsearch_server.filters` means, in as few words as possible, and none of an index's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from clipsearch_server.filters import (
    Condition,
    Exists,
    Filter,
    MatchAny,
    NumberRange,
    Prefix,
    TimeRange,
    path_steps,
)
from clipsearch_server.ports import StoredImage

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def passes(image: StoredImage, condition: Condition) -> bool:
    if isinstance(condition, Filter):
        return (
            all(passes(image, it) for it in condition.must)
            and not any(passes(image, it) for it in condition.must_not)
            and (not condition.should or any(passes(image, it) for it in condition.should))
        )
    found = [*_values(image, condition.field)]
    if isinstance(condition, Exists):
        own = not condition.field.startswith("metadata.")
        return any(value not in (None, []) and not (own and value == "") for value in found)
    elements = [e for value in found for e in (value if isinstance(value, list) else [value])]
    return any(_holds(condition, element) for element in elements)


def _holds(condition: MatchAny | NumberRange | TimeRange | Prefix, value: object) -> bool:
    match condition:
        case MatchAny(values=values):
            return any(type(value) is type(_floats(one)) and value == one for one in values)
        case Prefix(prefix=prefix):
            return isinstance(value, str) and value.startswith(prefix)
        case NumberRange():
            return isinstance(value, float) and _within(value, condition)
        case TimeRange():
            time = _time(value)
            return time is not None and _within(time, condition)


def _within(value: float | datetime, bounds: NumberRange | TimeRange) -> bool:
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )


def _time(value: object) -> datetime | None:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        return datetime.fromisoformat(value.upper())
    return value if isinstance(value, datetime) else None


def _values(image: StoredImage, field: str) -> Iterator[object]:
    """The values a path leads to; a list is one."""
    first, *rest = path_steps(field)
    assert first is not None
    value = getattr(image, first)
    yield from _within_value(str(value) if isinstance(value, UUID) else _floats(value), rest)


def _within_value(value: object, steps: list[str | None]) -> Iterator[object]:
    if not steps:
        yield value
    elif steps[0] is None:
        for element in value if isinstance(value, list) else []:
            yield from _within_value(element, steps[1:])
    elif isinstance(value, dict) and steps[0] in value:
        yield from _within_value(value[steps[0]], steps[1:])


def _floats(value: object) -> object:
    """JSON has one type of numbers."""
    if isinstance(value, dict):
        return {key: _floats(it) for key, it in value.items()}
    if isinstance(value, list):
        return [_floats(it) for it in value]
    return float(value) if type(value) is int else value
