"""Fakes of the server's ports. What they promise, `contract/` tests."""

from __future__ import annotations

import asyncio

import numpy as np

from clipsearch_server.errors import SourceFailed
from clipsearch_server.ports import Embeddings, Pixels, TokenIds


class FakeEncoder:
    """Knows three colours: an image is its mean colour, a text the tokens 3, 4 and 5 it holds.

    Waits before each answer until ``gate`` is set, which it is at first; raises ``fail_with``, if
    set.
    """

    description = "fake"

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.images_embedded = 0
        self._waiting = 0
        self._changed = asyncio.Condition()

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        await self._pass()
        counts = [(token_ids == token_id).sum(axis=1) for token_id in (3, 4, 5)]
        return _unit(np.stack(counts, axis=1))

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        await self._pass()
        self.images_embedded += len(pixels)
        return _unit(pixels.mean(axis=(2, 3)))

    async def health(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    async def until_waiting(self, calls: int) -> None:
        """Returns once exactly so many calls wait at the gate."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting == calls)

    async def _pass(self) -> None:
        await self._count(1)
        try:
            await self.gate.wait()
        finally:
            await self._count(-1)
        if self.fail_with is not None:
            raise self.fail_with

    async def _count(self, change: int) -> None:
        async with self._changed:
            self._waiting += change
            self._changed.notify_all()


class FakeFetcher:
    """Delivers ``bodies`` by their URL; any other URL is a 404."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    async def fetch(self, url: str) -> bytes:
        if url not in self.bodies:
            raise SourceFailed(
                "the host answered 404", reason="SOURCE_HTTP_STATUS", retryable=False, status="404"
            )
        return self.bodies[url]


def _unit(vectors: np.ndarray) -> Embeddings:
    vectors = vectors.astype(np.float32) + 1e-3  # black and wordless have a direction too
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
