"""Embeds what concurrent requests bring in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.deadline import call_deadline, call_ends_at
from clipsearch_server.errors import EncoderUnavailable, ModelOutputInvalid, Overloaded
from clipsearch_server.ports import Embeddings, Encoder, Pixels, TokenIds

# Texts are batched with texts of about their length, so that a short one does not pay for a long
# one: CLIP's text tower costs what the longest of a batch costs. Equal shapes are also what
# Triton's own batcher merges.
_LENGTH_BUCKETS = (8, 16, 32)


class BatchingEncoder:
    """Wraps an Encoder: rows that arrive while it is busy are embedded together, oldest first.

    Nothing waits for company: an idle encoder takes a lone row at once, and a batch is whatever
    came in while ``concurrency`` others were under way (one for each tower, if the encoder does one
    thing at a time). At most ``max_waiting`` rows wait for each tower; what comes on top is refused
    with Overloaded. A row whose caller has gone is dropped, and a batch that nobody waits for any
    more is cancelled; its deadline is the latest of its callers'. If the encoder answers a batch
    with ModelOutputInvalid, its rows are tried one by one, so that a poison one fails alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pad_token_id: int,
        max_batch: int,
        max_waiting: int,
        concurrency: int = 1,
    ) -> None:
        self._encoder = encoder
        self._text = _Batcher(
            lambda rows: encoder.encode_text(_pad(rows, pad_token_id)),
            lambda row: _bucket(len(row)),
            max_batch,
            max_waiting,
        )
        self._image = _Batcher(
            lambda rows: encoder.encode_image(np.stack(rows)), lambda row: 0, max_batch, max_waiting
        )
        self._concurrency = concurrency
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(batcher.work(), name=f"batch-{name}-{number}")
            for name, batcher in (("text", self._text), ("image", self._image))
            for number in range(self._concurrency)
        ]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def description(self) -> str:
        return self._encoder.description

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        return await self._text.submit(token_ids)

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        return await self._image.submit(pixels)

    async def health(self) -> None:
        await self._encoder.health()


@dataclass(slots=True, eq=False)
class _Waiting:
    row: NDArray[Any]
    group: int
    ends_at: float | None
    embedding: asyncio.Future[NDArray[np.float32]]


class _Batcher:
    """The queue before one tower, and the work that empties it."""

    def __init__(
        self,
        encode: Callable[[Sequence[NDArray[Any]]], Awaitable[Embeddings]],
        group_of: Callable[[NDArray[Any]], int],
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._encode = encode
        self._group_of = group_of
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    async def submit(self, rows: NDArray[Any]) -> Embeddings:
        """Embeds rows, each in whatever batch takes it, and returns them in their order."""
        if len(self._waiting) + len(rows) > self._max_waiting:
            self._drop_abandoned()
        if len(self._waiting) + len(rows) > self._max_waiting:
            raise Overloaded("too many texts and images are waiting for the encoder")
        loop = asyncio.get_running_loop()
        ends_at = call_deadline()
        waiting = [
            _Waiting(row, self._group_of(row), ends_at, loop.create_future()) for row in rows
        ]
        self._waiting += waiting
        self._arrived.set()
        return np.stack(await asyncio.gather(*(item.embedding for item in waiting)))

    async def work(self) -> None:
        """Embeds batch after batch until cancelled; who still waits then gets
        EncoderUnavailable."""
        batch: list[_Waiting] = []
        try:
            while True:
                await self._arrived.wait()
                batch = self._next_batch()
                await self._embed(batch)
        finally:
            closed = EncoderUnavailable("the server is stopping")
            for item in (*batch, *self._waiting):
                if not item.embedding.done():
                    item.embedding.set_exception(closed)

    def _next_batch(self) -> list[_Waiting]:
        """Takes the oldest row and up to max_batch - 1 of its group; drops those nobody waits
        for."""
        self._drop_abandoned()
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        for item in self._waiting:
            fits = len(batch) < self._max_batch and (not batch or item.group == batch[0].group)
            (batch if fits else left).append(item)
        self._waiting = left
        if not left:
            self._arrived.clear()
        return batch

    def _drop_abandoned(self) -> None:
        self._waiting = [item for item in self._waiting if not item.embedding.done()]

    async def _embed(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        try:
            embeddings = await self._encode_for(batch)
        except ModelOutputInvalid as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for item in batch:
                if not item.embedding.done():
                    await self._embed([item])
        except Exception as error:  # each caller gets it, and maps it; the task must go on
            _fail(batch, error)
        else:
            for item, embedding in zip(batch, embeddings, strict=True):
                if not item.embedding.done():
                    item.embedding.set_result(embedding)

    async def _encode_for(self, batch: Sequence[_Waiting]) -> Embeddings:
        """Encodes a batch for as long as somebody waits for it."""
        deadlines = [item.ends_at for item in batch if item.ends_at is not None]
        with call_ends_at(max(deadlines) if len(deadlines) == len(batch) else None):
            call = asyncio.ensure_future(self._encode([item.row for item in batch]))

        def cancel_unless_awaited(_: object) -> None:
            if all(item.embedding.done() for item in batch):
                call.cancel()

        for item in batch:
            item.embedding.add_done_callback(cancel_unless_awaited)
        try:
            await asyncio.wait({call})
        finally:
            call.cancel()
        if call.cancelled():
            raise EncoderUnavailable("nobody waits for this batch any more")
        embeddings = call.result()
        if len(embeddings) != len(batch):
            raise ModelOutputInvalid(f"{len(embeddings)} embeddings of {len(batch)} rows")
        return embeddings


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.embedding.done():
            item.embedding.set_exception(error)


def _bucket(length: int) -> int:
    return next((bucket for bucket in _LENGTH_BUCKETS if length <= bucket), 0)


def pad_to_bucket(token_ids: TokenIds, pad_token_id: int, max_tokens: int) -> TokenIds:
    """(n, t) int64 -> (n, the length of its bucket) int64, filled up with the padding token."""
    length = token_ids.shape[1]
    padding = min(_bucket(length) or max_tokens, max(max_tokens, length)) - length
    return np.pad(token_ids, ((0, 0), (0, padding)), constant_values=pad_token_id)


def _pad(rows: Sequence[NDArray[np.int64]], pad_token_id: int) -> TokenIds:
    """(t_i,) int64 each -> (n, max t) int64, filled up with the padding token."""
    padded = np.full((len(rows), max(map(len, rows))), pad_token_id, dtype=np.int64)
    for row, text in zip(padded, rows, strict=True):
        row[: len(text)] = text
    return padded
