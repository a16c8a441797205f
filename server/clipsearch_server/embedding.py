"""From an image's source to its embedding, for adds and queries alike.

Both are held back, and never refused, by what comes after them: by the memory for images under way,
and by how many are decoded before the encoder takes them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from clipsearch_server.budget import Budget
from clipsearch_server.errors import InvalidImage, InvalidRequest
from clipsearch_server.ports import Embedding, Encoder, ImageDecoder, ImageFetcher
from clipsearch_server.priority import Places
from clipsearch_server.stages import stage

# Hashed in a tenth of a millisecond, a few tenths where the processor has no instructions for it:
# another thread costs as much.
_HASHED_AT_ONCE_BYTES = 2**17


@dataclass(frozen=True, slots=True)
class Picture:
    """What an image's content alone decides."""

    media_type: str
    width_px: int
    height_px: int
    embedding: Embedding


class ImageEmbedder:
    """Fetches, checks, decodes and embeds images.

    ``executor`` runs what would stop the event loop: hashing what is large. ``fetcher`` is None
    where images may not be given by URL. At most ``max_decoded`` images are decoded and not yet
    embedded. ``memory`` is the bytes of all encoded images under way: the fetcher takes what it
    fetches, and whoever brings a content takes its part first. Who has a part may wait for a
    decoder, and so may not wait for another part. What a port raises is passed on.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        fetcher: ImageFetcher | None,
        decoder: ImageDecoder,
        executor: Executor,
        max_image_bytes: int,
        max_decoded: int,
        memory: Budget,
    ) -> None:
        self._encoder = encoder
        self._fetcher = fetcher
        self._decoder = decoder
        self._executor = executor
        self._max_image_bytes = max_image_bytes
        self._decoded = Places(max_decoded)
        self._memory = memory

    def room_for(self, contents: Sequence[bytes]) -> AbstractAsyncContextManager[None]:
        """Takes the memory for contents, all of it at once, for as long as the block lasts."""
        return self._memory.take(sum(map(len, contents)))

    @asynccontextmanager
    async def fetched(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Fetches an image, and holds its memory for as long as the block lasts.

        Raises InvalidRequest (field ``url``), SourceNotAllowed, SourceFailed or InvalidImage.
        """
        if self._fetcher is None:
            raise InvalidRequest(
                "url",
                "this server takes no URLs; send the image's content instead",
                reason="FETCH_DISABLED",
            )
        with stage("fetch"):
            content = await self._fetcher.fetch(url, headers)
        try:
            yield content
        finally:
            self._memory.release(len(content))

    def check_size(self, content: bytes) -> None:
        """Raises InvalidImage if there are more bytes than an image may have."""
        if len(content) > self._max_image_bytes:
            raise InvalidImage(
                f"the image has {len(content):,} bytes; at most {self._max_image_bytes:,} are "
                "taken",
                reason="IMAGE_TOO_LARGE",
                max_image_bytes=str(self._max_image_bytes),
            )

    async def sha256(self, content: bytes) -> str:
        """Returns the SHA-256, in lower-case hexadecimal."""
        if len(content) <= _HASHED_AT_ONCE_BYTES:
            return _sha256(content)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, _sha256, content)

    async def embed(self, content: bytes) -> Picture:
        """Decodes and embeds an image. Raises InvalidImage if it is none that we take."""
        async with self._decoded:
            with stage("decode"):
                decoded = await self._decoder.decode(content)
            with stage("encode"):
                (embedding,) = await self._encoder.encode_image(decoded.pixels[None])
        return Picture(decoded.media_type, decoded.width_px, decoded.height_px, embedding)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
