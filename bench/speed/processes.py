"""The processes of a run: what is measured, and what loads it. One works at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from signal import SIGCONT, SIGSTOP
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """A process of its own, which calls functions of a module, one after the other."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self.pid = self.call(os.getpid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wake(self.pid)
        self._pool.shutdown(cancel_futures=True)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return self.start(function, *args, **kwargs).result()

    def start(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return self._pool.submit(function, *args, **kwargs)


def sleep(*pids: int) -> None:
    """Stops processes without ending them. One that is idle takes some of the processor too, such
    as a server that watches its encoder, and that would be taken from what is measured."""
    for pid in pids:
        os.kill(pid, SIGSTOP)


def wake(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(pid, SIGCONT)


@contextmanager
def awake(*pids: int) -> Iterator[Sequence[int]]:
    """Lets processes that sleep run for a while."""
    wake(*pids)
    try:
        yield pids
    finally:
        sleep(*pids)
