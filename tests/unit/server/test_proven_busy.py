"""A busy encoder is no sick one, however long its batches are, and one that hangs is found soon."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import virtual_time
from clipsearch_server.canary import Canary
from clipsearch_server.encoders.proven import ProvenEncoder
from clipsearch_server.errors import DeadlineExceeded, EncoderUnavailable

CANARY = Canary(
    np.zeros((1, 4), np.int64),
    np.array([1, 0], np.float32),
    np.zeros((1, 3, 2, 2), np.uint8),
    np.array([1, 0], np.float32),
)
LONGEST_CHECK_S = 1.4  # rpc/health asks for no longer
INTERVAL_S = 0.5


class OneAtATime:
    """A thread for each tower, as the encoders of ONNX Runtime have: what has been begun goes on
    when its caller goes, and what is asked next waits for it."""

    description = "one at a time"

    def __init__(self, image_s: float) -> None:
        self.image_s = image_s
        self.token_s = 0.001
        self.health_s = 0.0
        self.hangs = False
        self._free_at = {"text": 0.0, "image": 0.0}

    async def encode_text(self, rows: Any) -> Any:
        return await self._encode("text", rows, self.token_s * rows.size)

    async def encode_image(self, rows: Any) -> Any:
        return await self._encode("image", rows, self.image_s * len(rows))

    async def health(self) -> None:
        await asyncio.sleep(self.health_s)

    async def _encode(self, tower: str, rows: Any, takes_s: float) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        now = asyncio.get_running_loop().time()
        self._free_at[tower] = max(now, self._free_at[tower]) + takes_s
        await asyncio.sleep(self._free_at[tower] - now)
        return embeddings_of(rows)


class Merging:
    """As Triton: what has come meanwhile is computed as one batch of up to 64 rows and answered
    together. It goes on with what it has begun when the callers have gone."""

    description = "merging"

    def __init__(
        self, *, image_s: float = 0.0, token_s: float = 0.0, timeout_s: float = 600
    ) -> None:
        self._timeout_s = timeout_s
        self._text = _MergingTower(lambda rows: token_s * rows.size)
        self.image = _MergingTower(lambda rows: image_s * len(rows))

    async def encode_text(self, rows: Any) -> Any:
        return await self._encode(self._text, rows)

    async def encode_image(self, rows: Any) -> Any:
        return await self._encode(self.image, rows)

    async def health(self) -> None:
        pass

    async def _encode(self, tower: _MergingTower, rows: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                await tower.compute(rows)
        except TimeoutError as error:
            raise DeadlineExceeded("no answer in time") from error
        return embeddings_of(rows)


class _MergingTower:
    def __init__(self, takes_s: Callable[[Any], float]) -> None:
        self.hangs = False
        self._takes_s = takes_s
        self._waiting: list[tuple[Any, asyncio.Future[None]]] = []
        self._work: asyncio.Task[None] | None = None

    async def compute(self, rows: Any) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._compute_all())
        await done

    async def _compute_all(self) -> None:
        await asyncio.sleep(0)  # what comes at the same moment is merged too
        while self._waiting:
            batch, taken = [], 0
            while self._waiting and taken + len(self._waiting[0][0]) <= 64:
                rows, done = self._waiting.pop(0)
                if not done.cancelled():
                    batch.append((rows, done))
                    taken += len(rows)
            await asyncio.sleep(sum(self._takes_s(rows) for rows, _ in batch))
            if self.hangs:
                await asyncio.Event().wait()
            for _, done in batch:
                if not done.cancelled():
                    done.set_result(None)


class Watched:
    """What the health checks of an encoder said, as often as they are made."""

    def __init__(self, encoder: ProvenEncoder) -> None:
        self._encoder = encoder
        self.complaints: list[tuple[float, str]] = []

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(LONGEST_CHECK_S):
                    await self._encoder.health()
            except (EncoderUnavailable, TimeoutError) as error:
                self.complaints.append((loop.time(), repr(error)))
            await asyncio.sleep(INTERVAL_S)


def images(n: int) -> Any:
    return np.zeros((n, 3, 2, 2), np.uint8)


def texts(n: int, tokens: int) -> Any:
    return np.zeros((n, tokens), np.int64)


def embeddings_of(rows: Any) -> Any:
    return np.tile(np.array([1, 0], np.float32), (len(rows), 1))


@pytest.mark.parametrize("image_s", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("health_s", [0.0, 0.7])
def test_batches_of_all_sizes_with_pauses_are_no_sickness(image_s: float, health_s: float) -> None:
    async def work() -> None:
        encoder = OneAtATime(image_s)
        chance = random.Random(1)
        loop = asyncio.get_running_loop()
        async with ProvenEncoder(encoder, CANARY) as proven:
            await proven.health()
            encoder.health_s = health_s
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())
            while loop.time() < 600:
                await proven.encode_image(images(chance.choice([1, 4, 16])))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * 3)
            watching.cancel()
            assert watched.complaints == []

    virtual_time.run(work())


def test_a_batch_whose_callers_have_gone_still_takes_its_time() -> None:
    async def work() -> None:
        async with ProvenEncoder(OneAtATime(0.1), CANARY) as proven:
            await proven.health()
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())
            await asyncio.sleep(20)
            call = asyncio.create_task(proven.encode_image(images(24)))
            await asyncio.sleep(0.05)
            call.cancel()
            for _ in range(20):
                await asyncio.sleep(0.2)
                await proven.encode_image(images(1))
            watching.cancel()
            assert watched.complaints == []

    virtual_time.run(work())


def test_row_35_a_hang_is_told_within_two_seconds_after_work() -> None:
    async def work() -> None:
        encoder = OneAtATime(0.01)
        async with ProvenEncoder(encoder, CANARY) as proven:
            await proven.health()
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())
            for _ in range(50):
                await proven.encode_image(images(16))
            encoder.hangs = True
            hung_at = asyncio.get_running_loop().time()
            await asyncio.sleep(3)
            watching.cancel()
            told_at, why = watched.complaints[0]
            assert "has not answered" in why
            assert told_at - hung_at <= 2

    virtual_time.run(work())


def test_long_texts_are_given_their_time_though_the_canary_is_short() -> None:
    async def work() -> None:
        encoder = OneAtATime(0.01)
        encoder.token_s = 2.2 / (16 * 77)
        async with ProvenEncoder(encoder, CANARY) as proven:
            await proven.health()
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())
            await asyncio.sleep(20)  # in which the canaries alone say what it takes
            await proven.encode_text(texts(16, 77))
            watching.cancel()
            assert watched.complaints == []

    virtual_time.run(work())


@pytest.mark.parametrize("sizes", [[16], [1], [1, 4, 16]])
@pytest.mark.parametrize("image_s", [0.03, 0.1, 0.3])
def test_merged_batches_are_given_the_time_of_all_that_is_under_way(
    sizes: list[int], image_s: float
) -> None:
    async def work() -> None:
        chance = random.Random(1)
        loop = asyncio.get_running_loop()
        async with ProvenEncoder(Merging(image_s=image_s, token_s=0.001), CANARY) as proven:
            await proven.health()
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())

            async def ask() -> None:
                while loop.time() < 60:
                    await proven.encode_image(images(chance.choice(sizes)))
                    await proven.encode_text(texts(chance.choice(sizes), chance.choice([8, 77])))
                    if chance.random() < 0.1:
                        await asyncio.sleep(chance.random() * 3)

            await asyncio.gather(*(ask() for _ in range(8)))
            watching.cancel()
            assert watched.complaints == []

    virtual_time.run(work())


@pytest.mark.parametrize("by_cancelling", [False, True])
def test_a_merged_batch_still_takes_its_time_when_its_callers_have_gone(
    by_cancelling: bool,
) -> None:
    async def work() -> None:
        timeout_s = 600 if by_cancelling else 2
        async with ProvenEncoder(Merging(image_s=0.1, timeout_s=timeout_s), CANARY) as proven:
            await proven.health()
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())
            await asyncio.sleep(10)
            calls = [asyncio.create_task(proven.encode_image(images(16))) for _ in range(4)]
            await asyncio.sleep(2.1)
            for call in calls:
                call.cancel()
            gone = await asyncio.gather(*calls, return_exceptions=True)
            kind = asyncio.CancelledError if by_cancelling else DeadlineExceeded
            assert {type(outcome) for outcome in gone} == {kind}
            await asyncio.sleep(20)
            watching.cancel()
            assert watched.complaints == []

    virtual_time.run(work())


def test_row_35_a_hang_under_a_full_queue_is_told_though_callers_come_and_go() -> None:
    """In the time that four times what is under way takes, at the latest: see docs/health.md."""

    async def work() -> None:
        encoder = Merging(image_s=0.02, timeout_s=3)
        async with ProvenEncoder(encoder, CANARY) as proven:
            await proven.health()
            watched = Watched(proven)
            watching = asyncio.create_task(watched.watch())
            loop = asyncio.get_running_loop()
            outcomes: list[type] = []

            async def ask() -> None:
                while True:
                    try:
                        await proven.encode_image(images(16))
                    except (DeadlineExceeded, EncoderUnavailable) as error:
                        outcomes.append(type(error))
                        await asyncio.sleep(0.1)

            asking = [asyncio.create_task(ask()) for _ in range(8)]
            await asyncio.sleep(30)
            assert watched.complaints == []
            encoder.image.hangs, hung_at = True, loop.time()
            await asyncio.sleep(15)
            told_at, why = watched.complaints[0]
            assert "the image encoder has not answered" in why
            assert told_at - hung_at <= 4 * (8 * 16 * 0.02) + 2
            outcomes.clear()
            await asyncio.sleep(1)
            assert set(outcomes) == {EncoderUnavailable}, "calls do not fail at once"
            for task in [watching, *asking]:
                task.cancel()

    virtual_time.run(work())
