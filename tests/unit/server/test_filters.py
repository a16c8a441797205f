"""Filters of requests: what is taken, and what each mistake is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

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
from clipsearch_server.indexes.edge.protocol import Points
from clipsearch_server.indexes.edge.shard import Shard
from clipsearch_server.indexes.points import to_payload
from clipsearch_server.ports import FieldType, IndexedField, NearestQuery
from clipsearch_server.rpc.filters import filter_of, indexed_field_of
from stored_images import an_image

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def a_condition(field: str = "colour", **test: Any) -> filter_pb2.Condition:
    return filter_pb2.Condition(field=field, **(test or {"exists": True}))


def string(value: str) -> filter_pb2.Scalar:
    return filter_pb2.Scalar(string_value=value)


def number(value: float) -> filter_pb2.Scalar:
    return filter_pb2.Scalar(number_value=value)


def any_of(*values: filter_pb2.Scalar) -> dict[str, Any]:
    return {"any_of": filter_pb2.AnyOf(values=values)}


def nested(levels: int) -> filter_pb2.Filter:
    message = filter_pb2.Filter(must=[a_condition()])
    for _ in range(levels - 1):
        message = filter_pb2.Filter(must=[filter_pb2.Condition(filter=message)])
    return message


def read(condition: filter_pb2.Condition) -> Condition:
    filter = filter_of(filter_pb2.Filter(must=[condition]))
    assert filter is not None
    return filter.must[0]


def test_an_empty_filter_is_none() -> None:
    assert filter_of(filter_pb2.Filter()) is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (a_condition(match=string("red")), MatchAny("metadata.colour", ("red",))),
        (a_condition(**any_of(number(1), number(2.5))), MatchAny("metadata.colour", (1.0, 2.5))),
        (
            a_condition(match=filter_pb2.Scalar(bool_value=False)),
            MatchAny("metadata.colour", (False,)),
        ),
        (
            a_condition("width_px", number_range=filter_pb2.NumberRange(gte=0, lt=9)),
            NumberRange(field="width_px", gte=0, lt=9),
        ),
        (a_condition(exists=True), Exists("metadata.colour")),
        (a_condition(exists=False), Filter(must_not=(Exists("metadata.colour"),))),
        (a_condition("uri", prefix="A/"), Prefix("uri", "A/")),
        (a_condition("sha256", prefix="AB"), Prefix("sha256", "ab")),
        (a_condition("sha256", match=string("AB" * 32)), MatchAny("sha256", ("ab" * 32,))),
        (
            a_condition("duplicate_of", match=string("7D4448409DC011D1B2455FFDCE74FAD2")),
            MatchAny("duplicate_of", ("7d444840-9dc0-11d1-b245-5ffdce74fad2",)),
        ),
        (filter_pb2.Condition(filter=filter_pb2.Filter()), Filter()),
    ],
    ids=str,
)
def test_a_condition_is_read(message: filter_pb2.Condition, expected: Condition) -> None:
    assert read(message) == expected


@pytest.mark.parametrize(
    ("nanos", "low", "high"),
    [(678_901_000, 0, 0), (678_901_001, 0, 1), (678_901_999, 0, 1), (999_999_999, 321098, 321099)],
)
def test_a_time_between_two_microseconds_parts_the_same_ones(
    nanos: int, low: int, high: int
) -> None:
    bound = Timestamp(seconds=int(MOMENT.timestamp()), nanos=nanos)
    below, above = (MOMENT + timedelta(microseconds=it) for it in (low, high))
    every = filter_pb2.TimeRange(gt=bound, gte=bound, lt=bound, lte=bound)
    assert read(a_condition("create_time", time_range=every)) == TimeRange(
        field="create_time", gt=below, gte=above, lt=above, lte=below
    )


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("url", "url"),
        ('"url"', "url"),
        ("metadata.url", "metadata.url"),
        ("metadata", "metadata.metadata"),
        ("metadata[]", "metadata.metadata[]"),
        ("metadata.metadata", "metadata.metadata"),
        ("id", "metadata.id"),
        ("a.b[].c[][]", "metadata.a.b[].c[][]"),
        ('"file name".size', 'metadata."file name".size'),
        ('"a"."b.c"."[]"', 'metadata.a."b.c"."[]"'),
        ('""', 'metadata.""'),
        ("größe", 'metadata."größe"'),
        ("-1_", "metadata.-1_"),
    ],
)
def test_a_field_is_one_of_the_image_or_of_its_metadata(field: str, expected: str) -> None:
    assert read(a_condition(field)) == Exists(expected)


@pytest.mark.parametrize(
    "field",
    [
        "a..b",
        ".a",
        "a.",
        "a b",
        "a[0]",
        "[]",
        "a[]b",
        "a[",
        '"a',
        'a"b"',
        r'"a\"b"',
        "a\n",
        "x" * 1025,
    ],
)
def test_a_malformed_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(a_condition(field))
    assert caught.value.field == "filter.must[0].field"


@pytest.mark.parametrize(
    ("message", "field", "said"),
    [
        (filter_pb2.Condition(field="a"), "", "no test"),
        (filter_pb2.Condition(exists=True), ".field", "is empty"),
        (a_condition(filter=filter_pb2.Filter()), ".field", "leave it out"),
        (a_condition("url.x"), ".field", "metadata.url"),
        (a_condition(match=filter_pb2.Scalar()), ".match", "no value"),
        (a_condition(match=number(math.nan)), ".match", "finite"),
        (a_condition(**any_of()), ".any_of.values", "is empty"),
        (a_condition(**any_of(string("a"), number(1))), ".any_of.values[1]", "one type"),
        (a_condition(**any_of(string("a"), filter_pb2.Scalar())), ".any_of.values[1]", "no value"),
        (a_condition(number_range=filter_pb2.NumberRange()), ".number_range", "no bound"),
        (
            a_condition(number_range=filter_pb2.NumberRange(lt=math.inf)),
            ".number_range.lt",
            "finite",
        ),
        (a_condition(time_range=filter_pb2.TimeRange()), ".time_range", "no bound"),
        (
            a_condition(time_range=filter_pb2.TimeRange(gt=Timestamp(seconds=2**60))),
            ".time_range.gt",
            "years",
        ),
        (
            a_condition(time_range=filter_pb2.TimeRange(gt=Timestamp(nanos=-1))),
            ".time_range.gt",
            "nanos",
        ),
        (a_condition(prefix=""), ".prefix", "is empty"),
        (a_condition("width_px", match=string("1")), ".match", "width_px is a number"),
        (a_condition("media_type", match=number(1)), ".match", "media_type is a string"),
        (a_condition("create_time", match=string("2026")), ".match", "time_range"),
        (a_condition("create_time", prefix="2026"), ".prefix", "create_time is a time"),
        (
            a_condition("url", time_range=filter_pb2.TimeRange(gt=Timestamp())),
            ".time_range",
            "url is a string",
        ),
        (a_condition("sha256", match=string("ab")), ".match", "64"),
        (a_condition("duplicate_of", **any_of(string("ab"))), ".any_of.values[0]", "UUID"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_with_its_path(
    message: filter_pb2.Condition, field: str, said: str
) -> None:
    inner = filter_pb2.Filter(must_not=[a_condition(), message])
    outer = filter_pb2.Filter(should=[filter_pb2.Condition(filter=inner)])
    with pytest.raises(InvalidRequest, match=said) as caught:
        filter_of(outer, "queries[3].filter")
    assert caught.value.field == f"queries[3].filter.should[0].filter.must_not[1]{field}"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (filter_pb2.Filter(must=[a_condition()] * 257), "more than 256 conditions"),
        (nested(9), "8 levels"),
        (filter_pb2.Filter(must=[a_condition(**any_of(*[number(1)] * 501))] * 2), "1002 values"),
    ],
    ids=["conditions", "levels", "values"],
)
def test_a_filter_has_limits(message: filter_pb2.Filter, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        filter_of(message)
    assert caught.value.field == "filter"


def test_as_much_as_the_limits_allow_is_taken() -> None:
    assert filter_of(nested(8)) is not None
    some = [a_condition(**any_of(*[number(1)] * 500))] * 2 + [a_condition()] * 254
    filter = filter_of(filter_pb2.Filter(should=some))
    assert filter is not None
    assert len(filter.should) == 256


def test_a_field_to_index_is_one_of_the_metadata() -> None:
    message = pb.IndexedField(field="tags[]", type=pb.FIELD_TYPE_KEYWORD)
    assert indexed_field_of(message, "x") == IndexedField("metadata.tags[]", FieldType.KEYWORD)


@pytest.mark.parametrize(
    ("field", "kind", "where", "said"),
    [
        ("uri", pb.FIELD_TYPE_KEYWORD, "field", "metadata.uri"),
        ("a b", pb.FIELD_TYPE_KEYWORD, "field", "malformed"),
        ("", pb.FIELD_TYPE_KEYWORD, "field", "empty"),
        ("a", pb.FIELD_TYPE_UNSPECIFIED, "type", "not set"),
        ("a", 99, "type", "not set"),
    ],
)
def test_a_field_that_cannot_be_indexed_is_told(
    field: str, kind: Any, where: str, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        indexed_field_of(pb.IndexedField(field=field, type=kind), "indexed_fields[2]")
    assert caught.value.field == f"indexed_fields[2].{where}"


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters='"\\'))))
def test_a_path_is_read_as_it_is_written(rest: list[str | None]) -> None:
    steps = ("metadata", *rest)
    assert path_steps(to_path(steps)) == steps


OWN = st.sampled_from(["url", "sha256", "width_px", "create_time", "duplicate_of"])
FIELDS = OWN | st.text(max_size=6) | st.from_regex(r'("[^"]*"|\w+)(\[\])?(\.\w+)?', fullmatch=True)
SCALARS = st.one_of(
    st.builds(filter_pb2.Scalar),
    st.builds(string, st.text(max_size=3)),
    st.builds(number, st.floats()),
    st.builds(lambda value: filter_pb2.Scalar(bool_value=value), st.booleans()),
)
BOUNDS = st.sampled_from(["gt", "gte", "lt", "lte"])
STAMPS = st.builds(Timestamp, seconds=st.integers(-(2**37), 2**38), nanos=st.integers(-1, 2**30))
TESTS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(lambda it: {"match": it}, SCALARS),
    st.builds(lambda them: any_of(*them), st.lists(SCALARS, max_size=3)),
    st.builds(
        lambda bounds: {"number_range": filter_pb2.NumberRange(**bounds)},
        st.dictionaries(BOUNDS, st.floats(), max_size=2),
    ),
    st.builds(
        lambda bounds: {"time_range": filter_pb2.TimeRange(**bounds)},
        st.dictionaries(BOUNDS, STAMPS, max_size=2),
    ),
    st.builds(lambda value: {"exists": value}, st.booleans()),
    st.builds(lambda value: {"prefix": value}, st.text(max_size=3)),
)
CONDITIONS = st.builds(lambda field, test: filter_pb2.Condition(field=field, **test), FIELDS, TESTS)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    shard = Shard.create(tmp_path_factory.mktemp("shard") / "1", 3)
    payload = to_payload(an_image(1, metadata={"a": {"b": ["c", 1.0]}}))
    shard.upsert(shard.convert(Points([UUID(int=1)], np.eye(1, 3, dtype=np.float32), [payload])))
    yield shard
    shard.close()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CONDITIONS)
def test_any_condition_is_refused_or_one_that_the_store_takes(
    shard: Shard, message: filter_pb2.Condition
) -> None:
    try:
        filter = filter_of(filter_pb2.Filter(must_not=[message]))
    except InvalidRequest as refused:
        error = refused
    else:
        query = NearestQuery(embedding=np.ones(3, np.float32), limit=1, filter=filter)
        shard.search(shard.convert_queries([query]), [None])
        return
    assert error.field.startswith("filter.must_not[0]")
