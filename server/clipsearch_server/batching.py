"""Works on what concurrent callers bring in batches."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from clipsearch_server import tracing
from clipsearch_server.deadline import call_deadline, call_ends_at
from clipsearch_server.metrics import QUEUE_ROWS
from clipsearch_server.priority import Precedence, is_background

Row = TypeVar("Row")
Result = TypeVar("Result")

# How long after a row of the foreground the batches of the background stay small: one may be under
# way when the next comes, which waits until it is done.
_WARY_S = 1.0
_WARY_SHARE = 4


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Row, Result]):
    row: Row
    ends_at: float | None
    background: bool
    span: tracing.Parent
    result: asyncio.Future[Result]


class Batcher(Generic[Row, Result]):
    """A queue of rows, and the work that empties it: what arrives while a batch is under way makes
    the next one, oldest first. Rows of the foreground go before those of the background, but every
    fourth time (`priority`), and are never put into one batch with them; and while some have come
    of late, a batch of the background has a quarter of the rows at most.

    Nothing waits for company: a lone row is taken at once. A row whose caller has gone is dropped,
    and a batch that nobody waits for any more is cancelled; its deadline is the latest of its
    callers'. If a batch fails for what ``is_of_one`` calls the fault of one row, its rows are
    tried one by one, so that a poison one fails alone.

    ``process`` returns a result for each row, in their order. One ``work`` at a time keeps rows of
    a priority in the order of their arrival. The name is what the queue goes by in metrics and
    traces.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Row]], Awaitable[Sequence[Result]]],
        *,
        name: str,
        max_batch: int,
        is_of_one: Callable[[Exception], bool],
        closed: Callable[[], Exception],  # what those get who wait when the work ends
    ) -> None:
        self._process = process
        self._max_batch = max_batch
        self._is_of_one = is_of_one
        self._closed = closed
        self._name = name
        self._queue_rows = QUEUE_ROWS.labels(name)
        self._waiting: list[_Waiting[Row, Result]] = []
        self._arrived = asyncio.Event()
        self._precedence = Precedence()
        self._foreground_at = -math.inf  # when a row of the foreground was last waited for

    def has_room(self, rows: int, *, max_waiting: int) -> bool:
        """Returns whether no more than max_waiting rows wait, those of callers that have gone not
        counted, if so many come."""
        if len(self._waiting) + rows > max_waiting:
            self._drop_abandoned()
        return len(self._waiting) + rows <= max_waiting

    async def submit(self, rows: Sequence[Row]) -> list[Result]:
        """Has rows worked on, each in whatever batch takes it; returns the results in their
        order."""
        loop = asyncio.get_running_loop()
        ends_at, background, span = call_deadline(), is_background(), tracing.parent()
        waiting = [_Waiting(row, ends_at, background, span, loop.create_future()) for row in rows]
        self._keep(self._waiting + waiting)
        self._arrived.set()
        try:
            if len(waiting) == 1:  # as images are, which costs less
                return [await waiting[0].result]
            results: list[Result] = await asyncio.gather(*(item.result for item in waiting))
        except Exception:  # nobody waits for the others any more
            for item in waiting:
                item.result.cancel()
            raise
        return results

    async def work(self) -> None:
        """Works on batch after batch until cancelled; who still waits then gets ``closed``."""
        batch: list[_Waiting[Row, Result]] = []
        try:
            while True:
                await self._arrived.wait()
                batch = self._next_batch()
                await self._work_on(batch)
        finally:
            for item in (*batch, *self._waiting):
                if not item.result.done():
                    item.result.set_exception(self._closed())
            self._keep([])

    def _next_batch(self) -> list[_Waiting[Row, Result]]:
        """Takes the oldest rows of those whose turn it is; drops those nobody waits for."""
        self._drop_abandoned()
        foreground = any(not item.background for item in self._waiting)
        background = any(item.background for item in self._waiting)
        now = asyncio.get_running_loop().time()
        if foreground:
            self._foreground_at = now
        chosen = self._precedence.is_backgrounds(foreground=foreground, background=background)
        most = self._max_batch
        if chosen and now - self._foreground_at < _WARY_S:
            most = max(most // _WARY_SHARE, 1)
        batch: list[_Waiting[Row, Result]] = []
        left: list[_Waiting[Row, Result]] = []
        for item in self._waiting:
            fits = len(batch) < most and item.background is chosen
            (batch if fits else left).append(item)
        self._keep(left)
        if not left:
            self._arrived.clear()
        return batch

    def _drop_abandoned(self) -> None:
        self._keep([item for item in self._waiting if not item.result.done()])

    def _keep(self, waiting: list[_Waiting[Row, Result]]) -> None:
        self._queue_rows.inc(len(waiting) - len(self._waiting))
        self._waiting = waiting

    async def _work_on(self, batch: Sequence[_Waiting[Row, Result]]) -> None:
        if not batch:
            return
        try:
            results = await self._process_for(batch)
        except Exception as error:  # each caller gets it, and maps it; the work must go on
            if len(batch) > 1 and self._is_of_one(error):
                for item in batch:
                    if not item.result.done():
                        await self._work_on([item])
                return
            for item in batch:
                if not item.result.done():
                    item.result.set_exception(error)
        else:
            # After this turn of the event loop, in which the next batch is begun: what the callers
            # do with their results would hold it up.
            asyncio.get_running_loop().call_soon(_deliver, batch, results)

    async def _process_for(self, batch: Sequence[_Waiting[Row, Result]]) -> Sequence[Result]:
        """Processes a batch for as long as somebody waits for it."""
        deadlines = [item.ends_at for item in batch if item.ends_at is not None]
        spans = [item.span for item in batch]
        with call_ends_at(max(deadlines) if len(deadlines) == len(batch) else None):
            call = asyncio.ensure_future(self._process_traced([item.row for item in batch], spans))

        def cancel_unless_awaited(_: object) -> None:
            if all(item.result.done() for item in batch):
                call.cancel()

        for item in batch:
            item.result.add_done_callback(cancel_unless_awaited)
        try:
            await asyncio.wait({call})
        finally:
            call.cancel()
        if call.cancelled():
            raise self._closed()  # to nobody: all have gone
        return call.result()

    async def _process_traced(
        self, rows: Sequence[Row], callers: Sequence[tracing.Parent]
    ) -> Sequence[Result]:
        with tracing.span(f"batch {self._name}", of=callers):
            return await self._process(rows)


def _deliver(batch: Sequence[_Waiting[Row, Result]], results: Sequence[Result]) -> None:
    for item, result in zip(batch, results, strict=True):
        if not item.result.done():
            item.result.set_result(result)
