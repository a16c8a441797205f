"""How long the stages of a call took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter

from clipsearch_server import tracing
from clipsearch_server.metrics import STAGE_SECONDS


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measures a stage, also one that fails: for those who watch the server."""
    start = perf_counter()
    try:
        with tracing.span(name):
            yield
    finally:
        _seconds_of(name).observe(perf_counter() - start)


_seconds_of = cache(STAGE_SECONDS.labels)  # stages are few, and looking one up costs more


@dataclass(slots=True)
class Stages:
    """Where a call's time went: stage -> seconds, in the order in which the stages first ended."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time that the block takes to the stage, for the caller."""
        start = perf_counter()
        with stage(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start
