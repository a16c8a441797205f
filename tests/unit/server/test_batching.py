"""The batching encoder: what is batched with what, and what a caller gets if something fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from clipsearch_server.deadline import call_ends_in, remaining_s
from clipsearch_server.encoders.batching import BatchingEncoder
from clipsearch_server.errors import EncoderUnavailable, ModelOutputInvalid, Overloaded
from clipsearch_server.ports import Embeddings, Pixels, TokenIds

PAD = 99
POISON = 66


class RecordingEncoder:
    """Embeds a row as [its first token, its length without padding]; waits until it is let go."""

    description = "recording"

    def __init__(self) -> None:
        self.batches: list[TokenIds] = []
        self.gate = asyncio.Event()
        self.busy = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.remaining_s: list[float] = []

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        self.batches.append(token_ids)
        self.remaining_s.append(remaining_s(at_most=1000))
        self.busy.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if (token_ids == POISON).any():
            raise ModelOutputInvalid("poison")
        lengths = (token_ids != PAD).sum(axis=1)
        return np.stack([token_ids[:, 0], lengths], axis=1).astype(np.float32)

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        return pixels.reshape(len(pixels), -1)[:, :2].astype(np.float32)

    async def health(self) -> None:
        pass


@asynccontextmanager
async def batching(
    inner: RecordingEncoder, *, max_batch: int = 4, max_waiting: int = 100, concurrency: int = 1
) -> AsyncIterator[BatchingEncoder]:
    encoder = BatchingEncoder(
        inner,
        pad_token_id=PAD,
        max_batch=max_batch,
        max_image_batch=max_batch,
        max_waiting=max_waiting,
        concurrency=concurrency,
    )
    async with encoder:
        yield encoder


def text(first: int, length: int) -> TokenIds:
    return np.full((1, length), first, dtype=np.int64)


async def test_what_arrives_while_the_encoder_is_busy_is_embedded_together() -> None:
    inner = RecordingEncoder()
    async with batching(inner) as encoder:
        first = asyncio.create_task(encoder.encode_text(text(1, 5)))
        await inner.busy.wait()
        rest = [asyncio.create_task(encoder.encode_text(text(n, n))) for n in range(2, 8)]
        await asyncio.sleep(0)
        inner.gate.set()
        assert (await first).tolist() == [[1, 5]]
        for n, task in enumerate(rest, start=2):
            assert (await task).tolist() == [[n, n]]
    assert [batch.shape for batch in inner.batches] == [(1, 5), (4, 5), (2, 7)]


async def test_texts_are_padded_to_the_longest_of_their_batch() -> None:
    inner = RecordingEncoder()
    inner.gate.set()
    rows = np.full((4, 70), PAD, dtype=np.int64)
    for row, length in zip(rows, (5, 70, 7, 1), strict=True):
        row[:length] = length
    async with batching(inner) as encoder:
        assert (await encoder.encode_text(rows)).tolist() == [[5, 5], [70, 70], [7, 7], [1, 1]]
        await encoder.encode_text(rows[[0, 2]])
    assert [batch.shape for batch in inner.batches] == [(4, 70), (2, 8)]


async def test_rows_of_one_call_come_back_in_their_order() -> None:
    inner = RecordingEncoder()
    inner.gate.set()
    async with batching(inner, max_batch=2) as encoder:
        rows = np.arange(5)[:, None].repeat(3, axis=1)
        assert (await encoder.encode_text(rows))[:, 0].tolist() == [0, 1, 2, 3, 4]
        pixels = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 3, 2, 2)
        assert (await encoder.encode_image(pixels))[:, 0].tolist() == [0, 1, 2, 3, 4]


async def test_a_poison_row_fails_alone() -> None:
    inner = RecordingEncoder()
    async with batching(inner) as encoder:
        tasks = [
            asyncio.create_task(encoder.encode_text(text(first, 3))) for first in (1, 2, POISON, 3)
        ]
        inner.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[2], ModelOutputInvalid)
    for index, first in ((0, 1), (1, 2), (3, 3)):
        answer = answers[index]
        assert isinstance(answer, np.ndarray)
        assert answer.tolist() == [[first, 3]]


async def test_more_than_may_wait_is_refused_and_what_waits_is_served() -> None:
    inner = RecordingEncoder()
    async with batching(inner, max_waiting=2) as encoder:
        first = asyncio.create_task(encoder.encode_text(text(1, 5)))
        await inner.busy.wait()
        waiting = [asyncio.create_task(encoder.encode_text(text(2, 5))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await encoder.encode_text(text(3, 5))
        inner.gate.set()
        await asyncio.gather(first, *waiting)


async def test_a_row_whose_caller_has_gone_is_not_embedded() -> None:
    inner = RecordingEncoder()
    async with batching(inner) as encoder:
        first = asyncio.create_task(encoder.encode_text(text(1, 5)))
        await inner.busy.wait()
        gone = asyncio.create_task(encoder.encode_text(text(2, 5)))
        stays = asyncio.create_task(encoder.encode_text(text(3, 5)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        inner.gate.set()
        await asyncio.gather(first, stays)
    assert [batch[:, 0].tolist() for batch in inner.batches] == [[1], [3]]


async def test_who_has_gone_takes_no_place_from_who_comes() -> None:
    inner = RecordingEncoder()
    async with batching(inner, max_waiting=2) as encoder:
        first = asyncio.create_task(encoder.encode_text(text(1, 5)))
        await inner.busy.wait()
        gone = [asyncio.create_task(encoder.encode_text(text(2, 5))) for _ in range(2)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        stays = asyncio.create_task(encoder.encode_text(text(3, 5)))
        await asyncio.sleep(0)
        inner.gate.set()
        await asyncio.gather(first, stays)


async def test_closing_fails_what_still_waits() -> None:
    inner = RecordingEncoder()
    async with batching(inner) as encoder:
        running = asyncio.create_task(encoder.encode_text(text(1, 5)))
        await inner.busy.wait()
        waiting = asyncio.create_task(encoder.encode_text(text(2, 5)))
        await asyncio.sleep(0)
    for task in (running, waiting):
        with pytest.raises(EncoderUnavailable):
            await task


async def test_as_many_batches_are_under_way_as_the_encoder_can_use() -> None:
    inner = RecordingEncoder()
    async with batching(inner, max_batch=4, concurrency=2) as encoder:
        calls = [asyncio.create_task(encoder.encode_text(text(n, 5))) for n in range(12)]
        await inner.busy.wait()
        await asyncio.sleep(0)
        assert [len(batch) for batch in inner.batches] == [4, 4]
        inner.gate.set()
        answers = await asyncio.gather(*calls)
    assert [answer[0, 0] for answer in answers] == list(range(12))
    assert [len(batch) for batch in inner.batches] == [4, 4, 4]


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_the_next_goes_on() -> None:
    inner = RecordingEncoder()
    async with batching(inner) as encoder:
        calls = [asyncio.create_task(encoder.encode_text(text(n, 5))) for n in range(2)]
        await inner.busy.wait()
        calls[0].cancel()
        await asyncio.wait({calls[0]})
        assert not inner.cancelled.is_set()
        calls[1].cancel()
        await inner.cancelled.wait()
        inner.gate.set()
        assert (await encoder.encode_text(text(7, 5))).tolist() == [[7, 5]]


async def test_a_batch_may_take_as_long_as_the_most_patient_of_its_callers() -> None:
    inner = RecordingEncoder()

    async def ask(first: int, seconds: float | None) -> None:
        if seconds is None:
            await encoder.encode_text(text(first, 5))
            return
        with call_ends_in(seconds):
            await encoder.encode_text(text(first, 5))

    async with batching(inner, max_batch=2) as encoder:
        inner.gate.set()
        await asyncio.gather(ask(1, 30), ask(2, 60), ask(3, 30), ask(4, None))
    assert inner.remaining_s == [pytest.approx(60, abs=5), 1000]


async def test_who_has_gone_is_not_tried_again_after_a_poison_row() -> None:
    inner = RecordingEncoder()
    async with batching(inner) as encoder:
        gone = asyncio.create_task(encoder.encode_text(text(1, 3)))
        poison = asyncio.create_task(encoder.encode_text(text(POISON, 3)))
        await inner.busy.wait()
        gone.cancel()
        await asyncio.wait({gone})
        inner.gate.set()
        with pytest.raises(ModelOutputInvalid):
            await poison
    assert [batch[:, 0].tolist() for batch in inner.batches] == [[1, POISON], [POISON]]
