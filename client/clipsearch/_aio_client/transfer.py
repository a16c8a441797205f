"""Images with their embeddings: exported and imported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress

from clipsearch._aio_client.connection import AioConnection
from clipsearch._aio_client.streams import iterate, until_none
from clipsearch._convert import transfer as convert
from clipsearch._errors import SearchError
from clipsearch._models import EmbeddedImage
from clipsearch._retry import effective_timeout_s
from clipsearch._tracing import trace_metadata
from clipsearch.v1 import image_search_pb2 as pb


class AioTransferMethods(AioConnection):
    """A part of AsyncSearchClient."""

    async def export_images(
        self, *, start_id: str = "", collection: str = "", timeout_s: float | None = None
    ) -> AsyncIterator[EmbeddedImage]:
        """Yields all images with their embeddings; as ``SearchClient.export_images``.

        An iteration that is left early ends its call when the iterator is closed
        (``contextlib.aclosing``) or the client is.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        call = self._stub.ExportImages(
            pb.ExportImagesRequest(start_id=start_id, collection=collection),
            metadata=(*self._metadata, *trace_metadata()),
        )
        try:
            fingerprint = (await self._result(call, wait_s)).model.fingerprint
            while (page := await self._next(call, wait_s)) is not None:
                for message in page.images:
                    yield convert.embedded_image(message, fingerprint)
        finally:
            call.cancel()

    async def import_images(
        self,
        images: Iterable[EmbeddedImage] | AsyncIterable[EmbeddedImage],
        *,
        collection: str = "",
        timeout_s: float | None = None,
    ) -> AsyncIterator[int]:
        """Stores images as another server exported them; as ``SearchClient.import_images``.

        An iteration that is left early ends its call as one of ``add_images`` does.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        requests: asyncio.Queue[pb.ImportImagesRequest | None] = asyncio.Queue()
        call = self._remembering(
            self._stub.ImportImages(
                until_none(requests), metadata=(*self._metadata, *trace_metadata())
            )
        )
        is_under_way = False
        try:
            # One page is stored while the next is made.
            async for page in _pages(images, collection):
                if is_under_way:
                    yield (await self._result(call, wait_s)).image_count
                requests.put_nowait(page)
                is_under_way = True
            requests.put_nowait(None)
            if is_under_way:
                yield (await self._result(call, wait_s)).image_count
            with suppress(SearchError):
                await self._next(call, wait_s)
        finally:
            requests.put_nowait(None)
            call.cancel()


async def _pages(
    images: Iterable[EmbeddedImage] | AsyncIterable[EmbeddedImage], collection: str
) -> AsyncIterator[pb.ImportImagesRequest]:
    pages = convert.ImportPages(collection)
    async for image in iterate(images):
        if (page := pages.add(image)) is not None:
            yield page
    if (page := pages.rest()) is not None:
        yield page
