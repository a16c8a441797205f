"""The charts of a run, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from matplotlib.typing import RcKeyType

from speed import targets as names
from speed.model import PRECISIONS
from speed.targets import BARE, INFINITY, PYTORCH, SERVER, Figures, Outcome

_MET, _MISSED, _GREY = "#2a7f62", "#c44536", "#8d99ae"
_COLOURS = {SERVER: "#2a7f62", BARE: "#8d99ae", PYTORCH: "#d9a441", INFINITY: "#6a4c93"}
_STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
}


def targets(outcomes: Sequence[Outcome]) -> bytes:
    """How far each ratio is beyond its bound: 1 is the bound, more is better."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.36 * len(outcomes) + 1.1), layout="constrained")
        axes = figure.subplots()
        for row, it in enumerate(reversed(outcomes)):
            scores = [_score(it, ratio) for ratio in it.ratios]
            score = _score(it, it.median)
            axes.barh(row, score, color=_MET if it.is_met else _MISSED, height=0.62)
            axes.plot([min(scores), max(scores)], [row, row], color="black", linewidth=1)
            axes.text(max(1, score, *scores) * 1.06, row, _label(it), va="center")
        axes.axvline(1, color="black", linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(outcomes)), [it.target.title for it in reversed(outcomes)])
        axes.set_xlim(right=axes.get_xlim()[1] * 4)
        axes.set_xlabel("to the target; lines are the rounds")
        return _png(figure)


def rates(rounds: Sequence[Figures]) -> bytes:
    """Texts and images a second of all contestants."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, kind, title in (
            (left, names.texts, "texts/s: QueryText at 32 callers"),
            (right, names.images, "images/s: AddImages, 640 x 480 JPEGs"),
        ):
            bars = [
                (_label_of(who, precision), kind(who, precision), _COLOURS[who])
                for precision in PRECISIONS
                for who in (BARE, SERVER, PYTORCH, INFINITY)
            ]
            _bars(axes, bars, rounds)
            axes.set_title(title)
        return _png(figure)


def latencies(rounds: Sequence[Figures]) -> bytes:
    """Milliseconds of a text."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        _bars(
            left,
            [
                (_label_of(who, precision), names.text_p50(who, precision), _COLOURS[who])
                for precision in PRECISIONS
                for who in (BARE, SERVER)
            ],
            rounds,
        )
        left.set_title("ms of a text of 12 tokens, one caller, p50")
        _bars(
            right,
            [
                ("idle", names.IDLE_P99, _GREY),
                ("beside a\nbulk ingest", names.LOADED_P99, _COLOURS[SERVER]),
            ],
            rounds,
        )
        right.set_title("ms of a query on a schedule, p99, fp32")
        return _png(figure)


def _bars(axes: Axes, bars: Sequence[tuple[str, str, str]], rounds: Sequence[Figures]) -> None:
    """Bars of label, figure and colour, with the range of the rounds, if they have the figure."""
    known = [(label, figure, colour) for label, figure, colour in bars if figure in rounds[0]]
    for place, (_, figure, colour) in enumerate(known):
        values = [it[figure] for it in rounds]
        axes.bar(place, median(values), color=colour, width=0.7)
        axes.plot([place, place], [min(values), max(values)], color="black", linewidth=1)
        axes.text(place, max(values), f" {median(values):.3g}\n", ha="center", va="bottom")
    axes.set_xticks(range(len(known)), [label for label, _, _ in known], fontsize=8)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.15)


def _score(outcome: Outcome, ratio: float) -> float:
    bound = outcome.target.bound
    return ratio / bound if outcome.target.at_least else bound / max(ratio, 1e-9)


def _label_of(who: str, precision: str) -> str:
    return f"{who}\n{precision}".replace(" ", "\n").replace("_", "\n_").replace("-", "-\n")


def _label(outcome: Outcome) -> str:
    target = outcome.target
    sign = "\N{GREATER-THAN OR EQUAL TO}" if target.at_least else "\N{LESS-THAN OR EQUAL TO}"
    return f"{outcome.median:.{target.digits}f} ({sign} {target.bound:g})"


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    # No time and no version in it, so that the same figures give the same bytes.
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()
