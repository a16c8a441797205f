"""The ratios that are promised, each of two figures that every round takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

# What a round found: its figures by name, such as "server fp32: texts/s at 32 callers".
Figures: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound of a ratio. ``figure`` is divided by ``baseline``, or by nothing if that is empty."""

    key: str  # names it in results, for comparisons with later ones
    title: str
    figure: str
    baseline: str
    bound: float
    at_least: bool  # or at most
    allowance: float = 0.0  # of the figure, which is free
    digits: int = 2

    def ratio(self, figures: Figures) -> float | None:
        """What a round makes of it; None if a contestant was not there."""
        try:
            figure = figures[self.figure] - self.allowance
            return figure / (figures[self.baseline] if self.baseline else 1.0)
        except KeyError:
            return None

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rounds make of a target."""

    target: Target
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.ratios)

    @property
    def is_met(self) -> bool:
        return self.target.is_met(self.median)


def outcomes(rounds: Sequence[Figures]) -> list[Outcome]:
    """Of each target for which the rounds have figures."""
    found = []
    for target in TARGETS:
        ratios = [ratio for it in rounds if (ratio := target.ratio(it)) is not None]
        if ratios:
            found.append(Outcome(target, tuple(ratios)))
    return found


def text_p50(who: str, precision: str) -> str:
    return f"{who} {precision}: ms of a text of 12 tokens, p50, one caller"


def texts(who: str, precision: str) -> str:
    return f"{who} {precision}: texts/s"


def images(who: str, precision: str) -> str:
    return f"{who} {precision}: images/s"


SERVER, BARE, PYTORCH, INFINITY = "server", "bare encoder", "PyTorch", "infinity_emb"
REPEATED = "server fp32: repeated queries/s"
EMPTY = "empty gRPC call: calls/s"
IDLE_P99 = "server fp32: ms of a query, p99, idle"
LOADED_P99 = "server fp32: ms of a query, p99, beside a bulk ingest"
START = "server fp32: s from start to serving"
MEMORY = "server fp32: MB of memory at rest"
MODEL_FILES = "model fp32: MB of its files"


def _to_bare(precision: str, images_bound: float) -> list[Target]:
    return [
        Target(
            key=f"text-p50-{precision}",
            title=f"QueryText p50 less 2 ms, one caller, to the bare encoder's, {precision}",
            figure=text_p50(SERVER, precision),
            baseline=text_p50(BARE, precision),
            bound=1.3,
            at_least=False,
            allowance=2.0,
        ),
        Target(
            key=f"text-rate-{precision}",
            title=f"QueryText rate, 32 callers, to the bare encoder's best, {precision}",
            figure=texts(SERVER, precision),
            baseline=texts(BARE, precision),
            bound=0.9,
            at_least=True,
        ),
        Target(
            key=f"image-rate-{precision}",
            title=f"AddImages rate, from JPEGs, to the bare encoder's from pixels, {precision}",
            figure=images(SERVER, precision),
            baseline=images(BARE, precision),
            bound=images_bound,
            at_least=True,
        ),
    ]


def _to_pytorch(precision: str, text_bound: float, image_bound: float) -> list[Target]:
    return [
        Target(
            key=f"text-to-pytorch-{precision}",
            title=f"QueryText rate to transformers on PyTorch's, {precision}",
            figure=texts(SERVER, precision),
            baseline=texts(PYTORCH, "fp32"),
            bound=text_bound,
            at_least=True,
            digits=1,
        ),
        Target(
            key=f"image-to-pytorch-{precision}",
            title=f"AddImages rate to transformers on PyTorch's, {precision}",
            figure=images(SERVER, precision),
            baseline=images(PYTORCH, "fp32"),
            bound=image_bound,
            at_least=True,
        ),
    ]


TARGETS: tuple[Target, ...] = (
    *_to_bare("fp32", images_bound=0.9),
    *_to_bare("int8-dynamic", images_bound=0.75),
    *_to_pytorch("fp32", text_bound=6, image_bound=1.5),
    *_to_pytorch("int8-dynamic", text_bound=10, image_bound=4),
    Target(
        key="text-to-infinity",
        title="QueryText rate to infinity_emb's, which only embeds, fp32",
        figure=texts(SERVER, "fp32"),
        baseline=texts(INFINITY, "fp32"),
        bound=1.5,
        at_least=True,
    ),
    Target(
        key="image-to-infinity",
        title="AddImages rate to infinity_emb's, which only embeds, fp32",
        figure=images(SERVER, "fp32"),
        baseline=images(INFINITY, "fp32"),
        bound=1.5,
        at_least=True,
    ),
    Target(
        key="repeated",
        title="Repeated QueryText, 32 callers, to an empty gRPC call of the same sizes",
        figure=REPEATED,
        baseline=EMPTY,
        bound=0.8,
        at_least=True,
    ),
    Target(
        key="p99-beside-ingest",
        title="QueryText p99 beside a bulk ingest, to idle, fp32",
        figure=LOADED_P99,
        baseline=IDLE_P99,
        bound=3,
        at_least=False,
    ),
    Target(
        key="start",
        title="Start to serving, seconds, fp32",
        figure=START,
        baseline="",
        bound=5,
        at_least=False,
    ),
    Target(
        key="memory",
        title="Memory of all processes at rest, to the model files, fp32",
        figure=MEMORY,
        baseline=MODEL_FILES,
        bound=1.3,
        at_least=False,
    ),
)
