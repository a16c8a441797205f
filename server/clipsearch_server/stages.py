"""How long the stages of a call took."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter
from types import TracebackType

from clipsearch_server import tracing
from clipsearch_server.metrics import STAGE_SECONDS

_seconds_of = cache(STAGE_SECONDS.labels)  # stages are few, and looking one up costs more


class stage:
    """Measures a stage, also one that fails: for those who watch the server."""

    __slots__ = ("_name", "_span", "_stages", "_start")

    def __init__(self, name: str, stages: Stages | None = None) -> None:
        self._name = name
        self._stages = stages
        self._span: AbstractContextManager[None] = tracing.span(name)

    def __enter__(self) -> None:
        self._start = perf_counter()
        self._span.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._span.__exit__(exc_type, exc, traceback)
        seconds = perf_counter() - self._start
        _seconds_of(self._name).observe(seconds)
        if self._stages is not None and exc is None:
            self._stages.add(self._name, seconds)


@dataclass(slots=True)
class Stages:
    """Where a call's time went: stage -> seconds, in the order in which the stages first ended."""

    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str) -> stage:
        """Counts the time that the block takes to the stage, for the caller."""
        return stage(name, self)

    def add(self, name: str, seconds: float) -> None:
        """Counts seconds to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
