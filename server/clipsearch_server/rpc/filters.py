"""Filters of requests, and the fields that collections index: checked, and as the domain has them.

The rules are those of filter.proto. Every function is pure, and raises InvalidRequest with the path
of the field that is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import chain
from typing import TypeAlias
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from clipsearch.v1 import filter_pb2
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.filters import (
    Condition,
    Exists,
    Filter,
    MatchAny,
    NumberRange,
    Prefix,
    TimeRange,
    path_steps,
    to_path,
)
from clipsearch_server.ports import FieldType, IndexedField

MAX_CONDITIONS = 256
MAX_VALUES = 1000
MAX_DEPTH = 8
MAX_FIELD_BYTES = 1024

_Value: TypeAlias = str | float | bool


class _Kind(Enum):
    """What the values of a field are; the image's own have one kind, metadata any."""

    STRING = "a string"
    NUMBER = "a number"
    TIME = "a time"
    BOOL = "a truth value"


_OWN_FIELDS: Mapping[str, _Kind] = {
    "url": _Kind.STRING,
    "uri": _Kind.STRING,
    "sha256": _Kind.STRING,
    "media_type": _Kind.STRING,
    "width_px": _Kind.NUMBER,
    "height_px": _Kind.NUMBER,
    "size_bytes": _Kind.NUMBER,
    "create_time": _Kind.TIME,
    "update_time": _Kind.TIME,
    "duplicate_of": _Kind.STRING,
}
_METADATA = "metadata"

_KINDS: Mapping[type, _Kind] = {str: _Kind.STRING, float: _Kind.NUMBER, bool: _Kind.BOOL}
_FIELD_TYPES: Mapping[int, FieldType] = {
    pb.FIELD_TYPE_KEYWORD: FieldType.KEYWORD,
    pb.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    pb.FIELD_TYPE_BOOL: FieldType.BOOL,
    pb.FIELD_TYPE_TIME: FieldType.TIME,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def filter_of(message: filter_pb2.Filter, path: str = "filter") -> Filter | None:
    """Checks a filter; one without a condition is none."""
    _check_size(message, path)
    if not (message.must or message.should or message.must_not):
        return None
    return _filter(message, path)


def indexed_field_of(message: pb.IndexedField, path: str) -> IndexedField:
    """Checks a field that a collection is to index."""
    field = _field(message.field, f"{path}.field")
    if field in _OWN_FIELDS:
        raise InvalidRequest(
            f"{path}.field",
            f"{field} is a field of the image, which has an index always; for metadata of this "
            f"name write {_METADATA}.{field}",
        )
    if message.type not in _FIELD_TYPES:
        raise InvalidRequest(
            f"{path}.type", "is not set; say which values to index, for example FIELD_TYPE_KEYWORD"
        )
    return IndexedField(field, _FIELD_TYPES[message.type])


def _filter(message: filter_pb2.Filter, path: str) -> Filter:
    def conditions(some: Iterable[filter_pb2.Condition], name: str) -> tuple[Condition, ...]:
        return tuple(_condition(it, f"{path}.{name}[{place}]") for place, it in enumerate(some))

    return Filter(
        must=conditions(message.must, "must"),
        should=conditions(message.should, "should"),
        must_not=conditions(message.must_not, "must_not"),
    )


def _condition(message: filter_pb2.Condition, path: str) -> Condition:
    test = message.WhichOneof("test")
    if test is None:
        raise InvalidRequest(path, "has no test; set match, any_of, exists or another one")
    if test == "filter":
        if message.field:
            raise InvalidRequest(f"{path}.field", "has no meaning beside a filter; leave it out")
        return _filter(message.filter, f"{path}.filter")
    field = _field(message.field, f"{path}.field")
    path = f"{path}.{test}"
    match test:
        case "match":
            return _match_any(field, [_value(message.match, field, path)])
        case "any_of":
            return _match_any(field, _values(message.any_of.values, field, f"{path}.values"))
        case "number_range":
            _require_kind(field, _Kind.NUMBER, path)
            return NumberRange(field=field, **_numbers(message.number_range, path))
        case "time_range":
            _require_kind(field, _Kind.TIME, path)
            return TimeRange(field=field, **_times(message.time_range, path))
        case "exists":
            there = Exists(field)
            return there if message.exists else Filter(must_not=(there,))
        case "prefix":
            _require_kind(field, _Kind.STRING, path)
            if not message.prefix:
                raise InvalidRequest(path, "is empty; use exists for any string")
            lower = field in ("sha256", "duplicate_of")
            return Prefix(field, message.prefix.lower() if lower else message.prefix)


def _field(field: str, path: str) -> str:
    """Returns where the value is in what is stored."""
    if not field:
        raise InvalidRequest(path, "is empty; name a field of the image, or one of its metadata")
    if len(field.encode()) > MAX_FIELD_BYTES:
        raise InvalidRequest(path, f"is longer than {MAX_FIELD_BYTES} bytes")
    try:
        steps = path_steps(field)
    except ValueError:
        raise InvalidRequest(
            path,
            "is malformed: it is names with a dot between them and perhaps [] after them, each in "
            'quotes if it has anything but letters, digits, _ and -, such as "file name".size; a '
            "name cannot have a quote or a backslash",
        ) from None
    if steps[0] in _OWN_FIELDS:
        if len(steps) > 1:
            raise InvalidRequest(
                path,
                f"{steps[0]} is a field of the image, and nothing is within it; for metadata of "
                f"this name write {_METADATA}.{steps[0]}",
            )
        return to_path(steps)
    named = steps[0] == _METADATA and len(steps) > 1 and steps[1] is not None
    return to_path(steps if named else (_METADATA, *steps))


def _match_any(field: str, values: Sequence[_Value]) -> MatchAny:
    return MatchAny(field, tuple(values))  # type: ignore[arg-type]  # they are of one type


def _values(messages: Sequence[filter_pb2.Scalar], field: str, path: str) -> list[_Value]:
    if not messages:
        raise InvalidRequest(path, "is empty; give one value at least")
    values = [_value(it, field, f"{path}[{place}]") for place, it in enumerate(messages)]
    first = _KINDS[type(values[0])]
    for place, value in enumerate(values):
        if (kind := _KINDS[type(value)]) is not first:
            raise InvalidRequest(
                f"{path}[{place}]",
                f"is {kind.value}, and the first is {first.value}; give values of one type",
            )
    return values


def _value(message: filter_pb2.Scalar, field: str, path: str) -> _Value:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(path, "has no value; set string_value, number_value or bool_value")
    value: _Value = getattr(message, kind)
    _require_kind(field, _KINDS[type(value)], path)
    match value, field:
        case float(), _:
            return _finite(value, path)
        case str(), "sha256":
            return _sha256(value, path)
        case str(), "duplicate_of":
            return _uuid(value, path)
        case _:
            return value


def _require_kind(field: str, kind: _Kind, path: str) -> None:
    own = _OWN_FIELDS.get(field, kind)
    if own is not kind:
        way_out = "; test it with time_range" if own is _Kind.TIME else ""
        raise InvalidRequest(path, f"is for {kind.value}, and {field} is {own.value}{way_out}")


def _numbers(message: filter_pb2.NumberRange, path: str) -> dict[str, float]:
    return {name: _finite(getattr(message, name), f"{path}.{name}") for name in _set(message, path)}


def _times(message: filter_pb2.TimeRange, path: str) -> dict[str, datetime]:
    return {
        # Times are stored in whole microseconds: a bound between two of them moves to the one
        # behind which the same lie.
        name: _time(getattr(message, name), f"{path}.{name}", up=name in ("gte", "lt"))
        for name in _set(message, path)
    }


def _set(message: filter_pb2.NumberRange | filter_pb2.TimeRange, path: str) -> list[str]:
    names = [field.name for field, _ in message.ListFields()]
    if not names:
        raise InvalidRequest(path, "has no bound; set gt, gte, lt or lte")
    return names


def _time(timestamp: Timestamp, path: str, *, up: bool) -> datetime:
    if not 0 <= timestamp.nanos < 10**9:
        raise InvalidRequest(path, "has nanos that are not from 0 to 999,999,999")
    microseconds = -(-timestamp.nanos // 1000) if up else timestamp.nanos // 1000
    try:
        return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=microseconds)
    except OverflowError:
        raise InvalidRequest(path, "is not in the years from 1 to 9999") from None


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise InvalidRequest(path, "is not a finite number")
    return value


def _sha256(value: str, path: str) -> str:
    if not _SHA256.fullmatch(value.lower()):
        raise InvalidRequest(path, "is not a SHA-256: 64 hexadecimal digits")
    return value.lower()


def _uuid(value: str, path: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        raise InvalidRequest(path, "is not the id of an image, which is a UUID") from None


def _check_size(message: filter_pb2.Filter, path: str) -> None:
    """Before anything else is looked at, and no further than allowed, so that it costs little."""
    values = 0
    for count, (level, condition) in enumerate(_all_conditions(message, 1), 1):
        values += len(condition.any_of.values)
        if count > MAX_CONDITIONS:
            raise InvalidRequest(path, f"has more than {MAX_CONDITIONS} conditions in all")
        if level == MAX_DEPTH and condition.HasField("filter"):
            raise InvalidRequest(
                path, f"has filters within each other more than {MAX_DEPTH} levels deep"
            )
    if values > MAX_VALUES:
        raise InvalidRequest(
            path, f"has {values} values in its any_of; at most {MAX_VALUES} are taken"
        )


def _all_conditions(
    message: filter_pb2.Filter, level: int
) -> Iterator[tuple[int, filter_pb2.Condition]]:
    for condition in chain(message.must, message.should, message.must_not):
        yield level, condition
        if condition.HasField("filter"):
            yield from _all_conditions(condition.filter, level + 1)
