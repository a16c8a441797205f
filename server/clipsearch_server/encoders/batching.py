"""Embeds what concurrent requests bring in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.batching import Batcher
from clipsearch_server.errors import EncoderUnavailable, ModelOutputInvalid, Overloaded
from clipsearch_server.metrics import BATCH_ROWS
from clipsearch_server.ports import Embeddings, Encoder, Pixels, TokenIds
from clipsearch_server.text import pad

Embedding: TypeAlias = NDArray[np.float32]  # (d,)


class BatchingEncoder:
    """Wraps an Encoder: rows that arrive while it is busy are embedded together, oldest first.

    A batch is whatever came in while ``concurrency`` others were under way, for each tower; texts
    of all lengths go together, as their padding is not computed. A batch has ``max_batch`` rows at
    most, and of images ``max_image_batch``. At most ``max_waiting`` rows wait
    for each tower; what comes on top is refused with Overloaded. If the encoder answers a batch
    with ModelOutputInvalid, its rows are tried one by one.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pad_token_id: int,
        max_batch: int,
        max_image_batch: int,
        max_waiting: int,
        concurrency: int = 1,
    ) -> None:
        self._encoder = encoder
        self._pad_token_id = pad_token_id
        self._max_waiting = max_waiting
        self._text: Batcher[NDArray[np.int64], Embedding] = Batcher(
            lambda rows: _embed_rows("text", encoder.encode_text(pad(rows, pad_token_id)), rows),
            name="text",
            max_batch=max_batch,
            is_of_one=_is_of_one,
            closed=_closed,
        )
        self._image: Batcher[NDArray[np.uint8], Embedding] = Batcher(
            lambda rows: _embed_rows("image", encoder.encode_image(np.stack(rows)), rows),
            name="image",
            max_batch=max_image_batch,
            is_of_one=_is_of_one,
            closed=_closed,
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
        self._require_room(self._text, len(token_ids))
        rows = [_unpad(row, self._pad_token_id) for row in token_ids]
        return np.stack(await self._text.submit(rows))

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        self._require_room(self._image, len(pixels))
        return np.stack(await self._image.submit(list(pixels)))

    async def health(self) -> None:
        await self._encoder.health()

    def _require_room(self, batcher: Batcher[Any, Embedding], rows: int) -> None:
        if not batcher.has_room(rows, max_waiting=self._max_waiting):
            raise Overloaded("too many texts and images are waiting for the encoder")


def _is_of_one(error: Exception) -> bool:
    return isinstance(error, ModelOutputInvalid)


def _closed() -> EncoderUnavailable:
    return EncoderUnavailable("the server is stopping")


async def _embed_rows(
    tower: str, embedding: Awaitable[Embeddings], rows: Sequence[object]
) -> list[Embedding]:
    BATCH_ROWS.labels(tower).observe(len(rows))
    embeddings = await embedding
    if len(embeddings) != len(rows):
        raise ModelOutputInvalid(f"{len(embeddings)} embeddings of {len(rows)} rows")
    return list(embeddings)


def _unpad(row: NDArray[np.int64], pad_token_id: int) -> NDArray[np.int64]:
    """(t,) int64 -> its beginning without the padding at its end, but for one such token: it may be
    the end token."""
    used = np.flatnonzero(row != pad_token_id)
    return row[: used[-1] + 2] if len(used) else row[:1]
