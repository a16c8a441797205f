"""The Server-Timing format: https://www.w3.org/TR/server-timing/."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch._timing import parse_server_timing, timings_ms


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tokenise;dur=0.21, total;dur=5.10", {"tokenise": 0.21, "total": 5.1}),
        ("a;dur=1,b;dur=2", {"a": 1.0, "b": 2.0}),
        (" a ; dur = 1 ; desc=x ", {"a": 1.0}),
        ('a;desc="first, second; third";dur=1, b;dur=".5"', {"a": 1.0, "b": 0.5}),
        ("cache;desc=hit, a;dur=1", {"a": 1.0}),
        ("a;dur=nan, b;dur=-1, c;dur=1e3, d;dur=, e;dur=2", {"e": 2.0}),
        ('a;dur=1, "', {"a": 1.0}),
        ("", {}),
    ],
)
def test_values(value: str, expected: dict[str, float]) -> None:
    assert parse_server_timing(value) == expected


@given(st.text(alphabet=st.sampled_from('ab;,="dur. 0123456789\\é')))
def test_anything_gives_finite_durations(value: str) -> None:
    for name, duration in parse_server_timing(value).items():
        assert name
        assert math.isfinite(duration)
        assert duration >= 0


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,10}", fullmatch=True),
        st.floats(min_value=0, max_value=1e9).map(lambda x: round(x, 3)),
    )
)
def test_what_a_server_writes_comes_back(timings: dict[str, float]) -> None:
    value = ", ".join(f"{name};dur={milliseconds:.3f}" for name, milliseconds in timings.items())
    assert parse_server_timing(value) == timings


def test_trailing_metadata() -> None:
    trailers = [("x", "y"), ("server-timing", "a;dur=1"), ("blob-bin", b"\x00")]
    assert timings_ms(trailers) == {"a": 1.0}
