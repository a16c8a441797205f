"""The values of a filter, and the conditions that compare with them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from clipsearch.filter_syntax.tokens import Token
from clipsearch.filters import Condition, Match, Range

_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A time as written: the instants from ``start`` to before ``end``; an instant has no end."""

    start: datetime
    end: datetime | None


Value: TypeAlias = str | bool | int | float | Span


def read_value(token: Token) -> Value:
    """Raises FilterSyntaxError if the token is no value."""
    if token.kind != "word":
        raise token.error(f"expected a value, and found {token}")
    if token.is_word("and", "or", "not", "in"):
        raise token.error(f"expected a value; quote {token} if it is one")
    text = token.text
    if (time := _TIME.fullmatch(text)) and time[1] is None:
        raise token.error(f"a time needs its time zone: {text}Z")
    try:
        if _NUMBER.fullmatch(text):
            return _number(text)
        if _DAY.fullmatch(text):
            day = datetime.fromisoformat(text).replace(tzinfo=UTC)
            return Span(day, day + timedelta(days=1))
        if time:
            return Span(datetime.fromisoformat(text.upper()).astimezone(UTC), None)
    except (OverflowError, ValueError) as error:
        raise token.error(f"there is no {text}; quote it if it is a string") from error
    if token.is_word("true", "false"):
        return token.is_word("true")
    return token.unquoted()


def equal(field: str, value: Value) -> Condition:
    if not isinstance(value, Span):
        return Match(field, value)
    if value.end is None:
        return Range(field, gte=value.start, lte=value.start)
    return Range(field, gte=value.start, lt=value.end)


def ordered(field: str, operator: str, value: float | Span) -> Condition:
    if not isinstance(value, Span):
        return Range(field, **{_BOUNDS[operator]: value})
    if value.end is None:
        return Range(field, **{_BOUNDS[operator]: value.start})
    match operator:
        case ">":
            return Range(field, gte=value.end)
        case ">=":
            return Range(field, gte=value.start)
        case "<":
            return Range(field, lt=value.start)
        case _:
            return Range(field, lt=value.end)


def type_name(value: Value) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case _:
            return type(value).__name__


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise OverflowError
    return int(number) if number.is_integer() else number
