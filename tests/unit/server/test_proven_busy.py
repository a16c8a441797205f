"""A busy encoder is no sick one, however long its batches are, and one that hangs is found soon."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

import virtual_time
from clipsearch_server.canary import Canary
from clipsearch_server.encoders.proven import ProvenEncoder
from clipsearch_server.errors import EncoderUnavailable

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
        self.health_s = 0.0
        self.hangs = False
        self._free_at = {"text": 0.0, "image": 0.0}

    async def encode_text(self, rows: Any) -> Any:
        return await self._encode("text", rows, 0.005)

    async def encode_image(self, rows: Any) -> Any:
        return await self._encode("image", rows, self.image_s)

    async def health(self) -> None:
        await asyncio.sleep(self.health_s)

    async def _encode(self, tower: str, rows: Any, row_s: float) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        now = asyncio.get_running_loop().time()
        self._free_at[tower] = max(now, self._free_at[tower]) + row_s * len(rows)
        await asyncio.sleep(self._free_at[tower] - now)
        return np.tile(np.array([1, 0], np.float32), (len(rows), 1))


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
