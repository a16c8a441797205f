"""Filters -> protobuf."""

from __future__ import annotations

from datetime import datetime

from clipsearch._convert.times import timestamp
from clipsearch.filters import AnyOf, Condition, Exists, Filter, Match, Prefix, Range, Value
from clipsearch.v1 import filter_pb2 as pb


def filter_message(filter: Filter | None) -> pb.Filter | None:
    """Raises TypeError for a value or condition of a type that filters do not have."""
    if filter is None:
        return None
    return pb.Filter(
        must=map(_condition, filter.must),
        should=map(_condition, filter.should),
        must_not=map(_condition, filter.must_not),
    )


def _condition(condition: Condition) -> pb.Condition:
    match condition:
        case Match(field, value):
            return pb.Condition(field=field, match=_scalar(value))
        case AnyOf(field, values):
            return pb.Condition(field=field, any_of=pb.AnyOf(values=map(_scalar, values)))
        case Range():
            return _range(condition)
        case Exists(field, exists):
            return pb.Condition(field=field, exists=exists)
        case Prefix(field, prefix):
            return pb.Condition(field=field, prefix=prefix)
        case Filter():
            return pb.Condition(filter=filter_message(condition))
        case _:
            raise TypeError(f"{condition!r} is no condition of a filter")


def _range(condition: Range) -> pb.Condition:
    bounds = {name: getattr(condition, name) for name in ("gt", "gte", "lt", "lte")}
    if any(isinstance(bound, datetime) for bound in bounds.values()):
        times = {name: timestamp(bound) for name, bound in bounds.items() if bound is not None}
        return pb.Condition(field=condition.field, time_range=pb.TimeRange(**times))
    return pb.Condition(field=condition.field, number_range=pb.NumberRange(**bounds))


def _scalar(value: Value) -> pb.Scalar:
    match value:
        case bool():
            return pb.Scalar(bool_value=value)
        case int() | float():
            return pb.Scalar(number_value=value)
        case str():
            return pb.Scalar(string_value=value)
        case _:
            raise TypeError(f"{value!r} is no string, number or truth value")
