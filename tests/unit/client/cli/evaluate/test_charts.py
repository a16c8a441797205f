"""Charts are well-formed, stay within themselves, and say what they show."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.cli.evaluate.charts import (
    Series,
    bar_chart,
    histogram,
    line_chart,
    linear_axis,
    nice_step,
    rank_axis,
    share_axis,
)

HOSTILE = 'a<b> & "c"'
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def drawn(chart: str) -> ElementTree.Element:
    figure = ElementTree.fromstring(chart)
    svg = figure.find("svg")
    assert svg is not None
    assert svg.get("role") == "img"
    assert svg.findtext("title") == HOSTILE
    assert svg.findtext("desc") == HOSTILE
    ids = [it.get("id") for it in svg.iter() if it.get("id")]
    assert (svg.get("aria-labelledby") or "").split() == ids
    _, _, width, height = map(float, (svg.get("viewBox") or "").split())
    for mark in svg.iter():
        for point in (mark.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    return figure


@settings(max_examples=25, deadline=None)
@given(SHARES)
def test_lines(shares: list[float]) -> None:
    ks = range(1, len(shares) + 1)
    lines = [(Series(HOSTILE, shares), ks), (Series("other", shares), ks)]
    figure = drawn(line_chart(HOSTILE, HOSTILE, rank_axis("k", 9), share_axis(""), lines))
    assert len(figure.findall("svg/polyline")) == 2
    assert [it.text for it in figure.iter("li")] == [None, None]  # the names come after the keys
    assert figure.find("ul/li/i").tail == HOSTILE  # type: ignore[union-attr]


@settings(max_examples=25, deadline=None)
@given(SHARES)
def test_bars(shares: list[float]) -> None:
    labels = [HOSTILE] * len(shares)
    axis = share_axis("", max(shares))
    figure = drawn(bar_chart(HOSTILE, HOSTILE, labels, axis, [Series("x", shares)], str))
    bars = figure.findall("svg/rect")
    heights = [float(bar.get("height") or "") for bar in bars]
    assert len(bars) == len(shares)
    assert sorted(range(len(shares)), key=lambda it: (shares[it], it)) == sorted(
        range(len(shares)), key=lambda it: (heights[it], shares[it], it)
    )
    assert min(heights) >= 0


def test_a_histogram_marks_values() -> None:
    x, y = linear_axis("ms", 0, 2.5), share_axis("", 0.6)
    values = [Series(HOSTILE, [0.6, 0.4])]
    figure = drawn(histogram(HOSTILE, HOSTILE, x, y, [0, 1, 2], values, [(1.5, HOSTILE)]))
    assert HOSTILE in [it.text for it in figure.iter("text")]


@pytest.mark.parametrize(
    ("span", "step"), [(1.0, 0.2), (0.05, 0.01), (7.3, 2), (1000, 200), (1e-9, 2e-10), (0, 1)]
)
def test_ticks_are_round_numbers(span: float, step: float) -> None:
    assert nice_step(span, 5) == pytest.approx(step)
