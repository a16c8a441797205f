"""Charts as SVG, drawn by hand: lines, bars and histograms, in the colours of the page they are on.

Each is an image with a title and a description for who cannot see it. It is drawn narrow, so that
its writing can be read on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 44

_number = count(1)


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or the bars of one colour."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows, from ``low`` to ``high``, with the places and names of its ticks."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Returns where a value is: 0 at the low end, 1 at the high end."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.5


def share_axis(label: str, high: float = 1.0) -> Axis:
    """Returns an axis of shares, from 0 % to somewhere above ``high``."""
    step = nice_step(high, 5)
    top = step * math.ceil(round(high / step, 6)) or 1.0
    ticks = [(step * n, f"{100 * step * n:.3g} %") for n in range(round(top / step) + 1)]
    return Axis(label, 0.0, top, ticks)


def rank_axis(label: str, high: int) -> Axis:
    """Returns a logarithmic axis of ranks from 1."""
    ticks = [(10**n, f"{10**n:,}") for n in range(int(math.log10(max(high, 1))) + 1)]
    return Axis(label, 1, max(high, 2), ticks, is_log=True)


def linear_axis(label: str, low: float, high: float, unit: str = "") -> Axis:
    """Returns an axis with round numbers at its ticks."""
    step = nice_step(high - low, 6)
    first, last = math.ceil(round(low / step, 6)), math.floor(round(high / step, 6))
    ticks = [(step * n, f"{step * n:.4g}{unit}") for n in range(first, last + 1)]
    return Axis(label, low, high, ticks)


def nice_step(span: float, most: int) -> float:
    """Returns 1, 2 or 5 times a power of ten, of which ``most`` at most fit into the span.

    A span too small to be seen (below 1e-12) counts as none: its step is 1.
    """
    if span < 1e-12:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(
        (power * it for it in (1, 2, 5) if span / (power * it) <= most * 1.0001), power * 10
    )


def line_chart(
    title: str, description: str, x: Axis, y: Axis, lines: Sequence[tuple[Series, Sequence[float]]]
) -> str:
    """Draws series, each over its own x values, as stairs: the values hold from there on."""
    marks = []
    for number, (series, xs) in enumerate(lines):
        points: list[str] = []
        former: float | None = None
        for at, value in zip(xs, series.values, strict=True):
            if former is not None:
                points.append(f"{_x(x, at)},{_y(y, former)}")
            points.append(f"{_x(x, at)},{_y(y, value)}")
            former = value
        marks.append(f'<polyline class="line s{number}" points="{" ".join(points)}"/>')
    return _figure(title, description, _axes(x, y), marks, [line[0].name for line in lines])


def histogram(
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    edges: Sequence[float],
    series: Sequence[Series],
    marked: Sequence[tuple[float, str]] = (),
) -> str:
    """Draws filled stairs over the bins between the edges, and named lines at some x values."""
    marks = []
    for number, one in enumerate(series):
        points = [f"{_x(x, edges[0])},{_y(y, 0)}"]
        for low, high, value in zip(edges, edges[1:], one.values, strict=False):
            points += [f"{_x(x, low)},{_y(y, value)}", f"{_x(x, high)},{_y(y, value)}"]
        points.append(f"{_x(x, edges[-1])},{_y(y, 0)}")
        marks.append(f'<polygon class="area s{number}" points="{" ".join(points)}"/>')
    for number, (value, name) in enumerate(marked):
        at = _x(x, value)
        is_right = x.share(value) > 0.6
        anchor, offset = ("end", -5) if is_right else ("start", 5)
        height = _TOP + 12 + 16 * number
        marks.append(
            f'<line class="mark" x1="{at}" x2="{at}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f"{_text(at + offset, height, name, 'value', anchor)}"
        )
    return _figure(title, description, _axes(x, y), marks, [one.name for one in series])


def bar_chart(
    title: str,
    description: str,
    labels: Sequence[str],
    y: Axis,
    series: Sequence[Series],
    show: Callable[[float], str],
    x_label: str = "",
) -> str:
    """Draws a group of bars for each label, one of each series, with their values above them."""
    slot = (_WIDTH - _LEFT - _RIGHT) / len(labels)
    width = min(slot * 0.78 / len(series), 64)
    marks = []
    for place, label in enumerate(labels):
        middle = _LEFT + slot * (place + 0.5)
        marks.append(_text(middle, _HEIGHT - _BOTTOM + 16, label, "tick", "middle"))
        for number, one in enumerate(series):
            left = middle + width * (number - len(series) / 2)
            top = _y(y, one.values[place])
            height = round(_HEIGHT - _BOTTOM - top, 1)
            marks.append(
                f'<rect class="bar s{number}" x="{left + 1:.1f}" y="{top}" width="{width - 2:.1f}" '
                f'height="{height}"/>'
            )
            value = show(one.values[place])
            marks.append(_text(left + width / 2, top - 4, value, "value", "middle"))
    x = Axis(x_label, 0, 1, ())
    names = [one.name for one in series] if len(series) > 1 else []
    return _figure(title, description, _axes(x, y), marks, names)


def _figure(
    title: str, description: str, axes: list[str], marks: list[str], names: Sequence[str]
) -> str:
    number = next(_number)
    legend = ""
    if len(names) > 1:
        keys = "".join(
            f'<li><i class="s{place}"></i>{escape(name)}</li>' for place, name in enumerate(names)
        )
        legend = f'<ul class="legend">{keys}</ul>'
    return (
        f'<figure class="card chart"><figcaption>{escape(title)}</figcaption>{legend}'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="t{number} d{number}">'
        f'<title id="t{number}">{escape(title)}</title>'
        f'<desc id="d{number}">{escape(description)}</desc>'
        f"{''.join(axes)}{''.join(marks)}</svg></figure>"
    )


def _axes(x: Axis, y: Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    drawn: list[str] = []
    for value, name in y.ticks:
        at = _y(y, value)
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        drawn.append(_text(_LEFT - 6, at + 4, name, "tick", "end"))
    for value, name in x.ticks:
        drawn.append(_text(_x(x, value), bottom + 16, name, "tick", "middle"))
    drawn.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    drawn.append(_text((_LEFT + right) / 2, _HEIGHT - 8, x.label, "label", "middle"))
    return drawn


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _x(axis: Axis, value: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * axis.share(value), 1)


def _y(axis: Axis, value: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * axis.share(value), 1)
