"""Recursive descent: a method for each rule of the grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipsearch.filter_syntax.tokens import Token, read_tokens
from clipsearch.filter_syntax.values import Span, Value, equal, ordered, read_value, type_name
from clipsearch.filters import AnyOf, Condition, Exists, Filter, Prefix

_ALIASES = {
    "added": "create_time",
    "format": "media_type",
    "height": "height_px",
    "size": "size_bytes",
    "updated": "update_time",
    "width": "width_px",
}
_MAX_DEPTH = 50  # the server takes 8; this is for Python's stack

_NAME = r'(?:"[^"]+"|[\w-]+)(?:\[\])*'
_FIELD = re.compile(rf"{_NAME}(?:\.{_NAME})*")


def parse_filter(text: str) -> Filter:
    """Reads a filter; the language is described in ``clipsearch.filter_syntax``.

    >>> parse_filter("format = jpeg and not width < 640")
    Filter(must=(Match(field='media_type', value='image/jpeg'),), should=(),
           must_not=(Range(field='width_px', gt=None, gte=None, lt=640, lte=None),))

    Raises FilterSyntaxError, a ValueError.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = read_tokens(text)[::-1]  # the next one is the last
        self._depth = 0

    def parse(self) -> Filter:
        if self._next.kind == "end":
            raise self._next.error("the filter is empty")
        condition = self._or()
        if self._next.kind != "end":
            raise self._next.error(
                f"expected `and`, `or` or the end, and found {self._next}; "
                "a value with a blank or any of (),=<>! in it is quoted"
            )
        return condition if isinstance(condition, Filter) else Filter(must=[condition])

    def _or(self) -> Condition:
        parts = [self._and()]
        while self._take_word("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else _any_of(parts)

    def _and(self) -> Condition:
        parts = [self._not()]
        while self._take_word("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else _all_of(parts)

    def _not(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._next.error("this is nested too deeply")
        if self._take_word("not"):
            condition = _none_of(self._not())
        elif self._take_mark("("):
            condition = self._or()
            self._expect_mark(")")
        else:
            condition = self._condition()
        self._depth -= 1
        return condition

    def _condition(self) -> Condition:
        field = self._field()
        token = self._take()
        if token.kind == "operator":
            return self._comparison(field, token)
        if token.is_word("in"):
            return self._membership(field)
        if token.is_word("not") and self._take_word("in"):
            return _none_of(self._membership(field))
        if token.is_word("starts") and self._take_word("with"):
            return self._prefix(field)
        if token.is_word("exists", "missing"):
            return Exists(field, token.is_word("exists"))
        raise token.error(
            f"expected what {field} is to be, such as =, >=, in, starts with or exists, "
            f"and found {token}"
        )

    def _comparison(self, field: str, operator: Token) -> Condition:
        token = self._take()
        match operator.text:
            case "=" | "==":
                return equal(field, _value(field, token))
            case "!=":
                return _none_of(equal(field, _value(field, token)))
            case ">" | ">=" | "<" | "<=":
                value = read_value(token)
                if isinstance(value, str | bool):
                    raise token.error(f"{operator} needs a number or a date")
                return ordered(field, operator.text, value)
            case _:
                raise operator.error(f"there is no {operator}; there are = != > >= < <=")

    def _membership(self, field: str) -> Condition:
        self._expect_mark("(")
        first = self._next
        values = [_value(field, self._take())]
        while self._take_mark(","):
            values.append(_value(field, self._take()))
        self._expect_mark(")")
        if len({type_name(value) for value in values}) > 1:
            raise first.error("these are not of one type: quote those that are strings")
        plain = [value for value in values if not isinstance(value, Span)]
        return AnyOf(field, plain) if plain else _any_of([equal(field, it) for it in values])

    def _prefix(self, field: str) -> Condition:
        token = self._take()
        if token.kind != "word":
            raise token.error(f"expected what {field} starts with, and found {token}")
        return Prefix(field, token.unquoted())

    def _field(self) -> str:
        token = self._take()
        if token.kind != "word" or token.is_word("and", "or", "not"):
            raise token.error(f"expected a field, and found {token}")
        if not _FIELD.fullmatch(token.text):
            raise token.error(
                "this is no field; a name with anything but letters, digits, _ and - is quoted: "
                '"file name".size'
            )
        return _ALIASES.get(token.text, token.text)

    @property
    def _next(self) -> Token:
        return self._tokens[-1]

    def _take(self) -> Token:
        return self._next if self._next.kind == "end" else self._tokens.pop()

    def _take_word(self, word: str) -> bool:
        return self._next.is_word(word) and bool(self._tokens.pop())

    def _take_mark(self, mark: str) -> bool:
        return (self._next.kind, self._next.text) == ("mark", mark) and bool(self._tokens.pop())

    def _expect_mark(self, mark: str) -> None:
        if not self._take_mark(mark):
            raise self._next.error(f"expected {mark} and found {self._next}")


def _value(field: str, token: Token) -> Value:
    value = read_value(token)
    if field == "media_type" and isinstance(value, str) and "/" not in value:
        name = value.lower()
        return f"image/{'jpeg' if name == 'jpg' else name}"
    return value


def _all_of(parts: Sequence[Condition]) -> Filter:
    must: list[Condition] = []
    must_not: list[Condition] = []
    for part in parts:
        if isinstance(part, Filter) and not part.should:
            must += part.must
            must_not += part.must_not
        else:
            must.append(part)
    return Filter(must=must, must_not=must_not)


def _any_of(parts: Sequence[Condition]) -> Filter:
    should: list[Condition] = []
    for part in parts:
        if isinstance(part, Filter) and not (part.must or part.must_not):
            should += part.should
        else:
            should.append(part)
    return Filter(should=should)


def _none_of(part: Condition) -> Condition:
    if isinstance(part, Filter) and not (part.must or part.must_not):
        return Filter(must_not=part.should)
    if isinstance(part, Filter) and len(part.must_not) == 1 and not (part.must or part.should):
        return part.must_not[0]
    return Filter(must_not=[part])
