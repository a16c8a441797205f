"""The filter language: what a text says, and what is said of a wrong one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch import (
    AnyOf,
    Condition,
    Exists,
    Filter,
    FilterSyntaxError,
    Match,
    Prefix,
    Range,
    parse_filter,
)

NOVEMBER_1 = datetime(2026, 11, 1, tzinfo=UTC)
NOVEMBER_2 = datetime(2026, 11, 2, tzinfo=UTC)
TEN_O_CLOCK = datetime(2026, 11, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("colour = red", Match("colour", "red")),
        ("colour == red", Match("colour", "red")),
        ("colour='dark red'", Match("colour", "dark red")),
        (r'''say = "\"no\" \\ it's"''', Match("say", r""""no" \ it's""")),
        (r'path = "C:\new"', Match("path", r"C:\new")),
        ("name = Äpfel", Match("name", "Äpfel")),
        ("year = 2020", Match("year", 2020)),
        ("ratio = -1.5e-3", Match("ratio", -0.0015)),
        ('year = "2020"', Match("year", "2020")),
        ("ready = TRUE", Match("ready", True)),
        ("ready = 'true'", Match("ready", "true")),
        ("by.name = Ada", Match("by.name", "Ada")),
        ("tags[].name = cat", Match("tags[].name", "cat")),
        ('"file name".size = 3', Match('"file name".size', 3)),
        ("metadata.width = 3", Match("metadata.width", 3)),
        ('"width" = 3', Match('"width"', 3)),
        ("exists = in.png", Match("exists", "in.png")),
        ("width >= 640", Range("width_px", gte=640)),
        ("height < .5", Range("height_px", lt=0.5)),
        ("size > 1e6", Range("size_bytes", gt=1_000_000)),
        ("width_px <= 640", Range("width_px", lte=640)),
        ("format = jpeg", Match("media_type", "image/jpeg")),
        ("format = JPG", Match("media_type", "image/jpeg")),
        ("format = image/png", Match("media_type", "image/png")),
        ("format in (gif, 'webp')", AnyOf("media_type", ("image/gif", "image/webp"))),
        ('colour in (red, "dark red")', AnyOf("colour", ("red", "dark red"))),
        ("year IN (2020,2021.5)", AnyOf("year", (2020, 2021.5))),
        ("colour exists", Exists("colour")),
        ("colour missing", Exists("colour", False)),
        ('uri starts with "http://a/?b=c"', Prefix("uri", "http://a/?b=c")),
        ("uri Starts With http://a/b", Prefix("uri", "http://a/b")),
        ("added = 2026-11-01", Range("create_time", gte=NOVEMBER_1, lt=NOVEMBER_2)),
        ("added > 2026-11-01", Range("create_time", gte=NOVEMBER_2)),
        ("added >= 2026-11-01", Range("create_time", gte=NOVEMBER_1)),
        ("updated < 2026-11-01", Range("update_time", lt=NOVEMBER_1)),
        ("updated <= 2026-11-01", Range("update_time", lt=NOVEMBER_2)),
        ("taken > 2026-11-01T10:00Z", Range("taken", gt=TEN_O_CLOCK)),
        ("taken <= 2026-11-01t12:00:00.0+02:00", Range("taken", lte=TEN_O_CLOCK)),
        ("taken = 2026-11-01T10:00Z", Range("taken", gte=TEN_O_CLOCK, lte=TEN_O_CLOCK)),
        ("taken = '2026-11-01'", Match("taken", "2026-11-01")),
    ],
)
def test_a_condition(text: str, condition: Condition) -> None:
    assert parse_filter(text) == Filter(must=[condition])


A, B, C = Match("a", 1), Match("b", 1), Match("c", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1 and b = 1 AND c = 1", Filter(must=[A, B, C])),
        ("a = 1 or b = 1 Or c = 1", Filter(should=[A, B, C])),
        ("a != 1", Filter(must_not=[A])),
        ("a = 1 and b != 1 and not c = 1", Filter(must=[A], must_not=[B, C])),
        ("not (a = 1 or b = 1)", Filter(must_not=[A, B])),
        ("not (a = 1 and b = 1)", Filter(must_not=[Filter(must=[A, B])])),
        ("not not a = 1", Filter(must=[A])),
        ("a = 1 or b = 1 and c = 1", Filter(should=[A, Filter(must=[B, C])])),
        ("(a = 1 or b = 1)\nand c = 1", Filter(must=[Filter(should=[A, B]), C])),
        ("a = 1 and (b = 1 and (c = 1))", Filter(must=[A, B, C])),
        ("a not in (1, 2)", Filter(must_not=[AnyOf("a", (1, 2))])),
        ("a in (2026-11-01)", Filter(should=[Range("a", gte=NOVEMBER_1, lt=NOVEMBER_2)])),
        (
            "a not in (2026-11-01, 2026-11-01T10:00Z)",
            Filter(
                must_not=[
                    Range("a", gte=NOVEMBER_1, lt=NOVEMBER_2),
                    Range("a", gte=TEN_O_CLOCK, lte=TEN_O_CLOCK),
                ]
            ),
        ),
    ],
)
def test_conditions_together(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "marked", "message"),
    [
        (" ", "", "is empty"),
        ("colour", "", "expected what colour is to be"),
        ("colour red", "red", "found red"),
        ("colour = ", "", "expected a value, and found the end"),
        ("colour = and a = 1", "and", "quote and"),
        ("colour = dark red", "red", "a value with a blank"),
        ("url = https://x.de/?a=1", "=1", "or any of .* in it is quoted"),
        ("colour => red", "=> ", "there is no =>"),
        ("colour > red", "red", "> needs a number or a date"),
        ("ready >= true", "true", ">= needs a number or a date"),
        ("a in 1", "1", r"expected \( and found 1"),
        ("a in ()", ")", "expected a value"),
        ("a in (1, red)", "1, red", "of one type"),
        ("a in (true, 1)", "true", "of one type"),
        ("a in (2026-11-01, red)", "2026", "of one type"),
        ("(a = 1", "", r"expected \) and found the end"),
        ("a = 1)", ")", r"found \)"),
        ('b = 1 and a = "red', '"red', "this quote is not closed"),
        ("a = 'red", "'red", "this quote is not closed"),
        ('a = x"red"', 'x"red"', "quotes go around the whole value"),
        ("file/name = 1", "file/name", "this is no field"),
        ("'file name' = 1", "'file name'", "this is no field"),
        ("and = 1", "and", "expected a field"),
        ("a = 1 or", "", "expected a field, and found the end"),
        ("a starts with", "", "expected what a starts with"),
        ("a = 2026-02-30", "2026", "there is no 2026-02-30"),
        ("a = 9999-12-31", "9999", "there is no 9999-12-31"),
        ("a = 2026-11-01T25:00Z", "2026", "there is no 2026-11-01T25:00Z"),
        ("a = 2026-11-01T10:00", "2026", "needs its time zone: 2026-11-01T10:00Z"),
        ("a = 1e999", "1e999", "there is no 1e999"),
        ("(" * 60 + "a = 1" + ")" * 60, "(" * 10 + "a", "nested too deeply"),
        ("not " * 60 + "a = 1", "not " * 10 + "a", "nested too deeply"),
    ],
)
def test_a_wrong_filter_is_told_with_its_place(text: str, marked: str, message: str) -> None:
    with pytest.raises(FilterSyntaxError, match=message) as caught:
        parse_filter(text)
    assert text[caught.value.position :].startswith(marked)
    if not marked:
        assert caught.value.position == len(text)


def test_the_place_is_shown() -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse_filter("colour = red and\nwidth > large")
    assert str(caught.value).splitlines()[1:] == [
        "  colour = red and width > large",
        "                           ^",
    ]


def test_of_a_long_filter_the_neighbourhood_is_shown() -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse_filter("a = 1 and " * 20 + "colour => red and " + "a = 1 and " * 20)
    _, shown, marker = str(caught.value).splitlines()
    assert shown.startswith("  ...")
    assert shown.endswith("...")
    assert len(shown) < 80
    assert shown[marker.index("^") :].startswith("=> red")


def parse_or_explain(text: str) -> Filter | str:
    try:
        return parse_filter(text)
    except FilterSyntaxError as error:
        return str(error)


TIMES = ["2026-11-01", "9999-12-31", "0001-01-01T00:00+10:00"]
WORDS = ["a", "colour", "and", "or", "not", "in", "exists", "starts", "with", "1", "true", *TIMES]
MARKS = ["=", "!=", ">=", "<", "(", ")", ",", '"', "'", "\\", "[]", ".", "\0"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(WORDS + MARKS) | st.text(max_size=3), max_size=12).map(" ".join))
def test_any_text_is_a_filter_or_a_syntax_error(text: str) -> None:
    assert parse_or_explain(text) != Filter()


def passes(condition: Condition, image: dict[str, bool]) -> bool:
    match condition:
        case Match(field, value):
            return image[field] is value
        case Filter():
            return (
                all(passes(it, image) for it in condition.must)
                and not any(passes(it, image) for it in condition.must_not)
                and (not condition.should or any(passes(it, image) for it in condition.should))
            )
        case _:
            raise AssertionError(condition)


def combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.lists(inner, min_size=2, max_size=3)
    return (
        inner.map("not {}".format)
        | inner.map("({})".format)
        | joined.map(" and ".join)
        | joined.map(" or ".join)
    )


@settings(max_examples=100)
@given(
    st.recursive(st.sampled_from(["a == True", "b == True", "c != True"]), combine, max_leaves=8),
    st.fixed_dictionaries({name: st.booleans() for name in "abc"}),
)
def test_it_means_what_python_means_by_it(text: str, image: dict[str, bool]) -> None:
    assert passes(parse_filter(text), image) is eval(text, {}, image)
