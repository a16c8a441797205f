"""Images: added, got, listed and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from uuid import uuid4

from clipsearch._aio_client.connection import AioConnection
from clipsearch._aio_client.streams import iterate, until_none
from clipsearch._convert import images as convert
from clipsearch._errors import SearchError
from clipsearch._models import AddedImage, AddItem, AddResult, Image, ImagePage, Metadata
from clipsearch._retry import effective_timeout_s
from clipsearch._tracing import trace_metadata
from clipsearch.v1 import image_search_pb2 as pb


class AioImageMethods(AioConnection):
    """A part of AsyncSearchClient."""

    async def add_image(
        self,
        *,
        url: str | None = None,
        content: bytes | None = None,
        id: str = "",
        uri: str = "",
        metadata: Metadata | None = None,
        collection: str = "",
        fetch_headers: Mapping[str, str] | None = None,
        request_id: str = "",
        create_time: datetime | None = None,
        timeout_s: float | None = None,
    ) -> AddedImage:
        """Adds an image; as ``SearchClient.add_image``."""
        request = convert.add_request(
            url=url,
            content=content,
            id=id,
            uri=uri,
            metadata=metadata,
            collection=collection,
            fetch_headers=fetch_headers,
            # The same in each attempt, so that the last one tells what the first one did.
            request_id=request_id or str(uuid4()),
            create_time=create_time,
        )
        response, _ = await self._call(self._stub.AddImage, request, timeout_s)
        return convert.added_image(response)

    async def add_images(
        self,
        items: Iterable[AddItem] | AsyncIterable[AddItem],
        *,
        collection: str = "",
        max_in_flight: int = 32,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AddResult]:
        """Adds many images over one stream; as ``SearchClient.add_images``.

        An iteration that is left early ends its call when the iterator is closed
        (``contextlib.aclosing``) or the client is.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; one item at least must be")
        requests: asyncio.Queue[pb.AddImagesRequest | None] = asyncio.Queue()
        call = self._remembering(
            self._stub.AddImages(
                until_none(requests), metadata=(*self._metadata, *trace_metadata())
            )
        )
        in_flight = 0
        try:
            async for item in iterate(items):
                requests.put_nowait(convert.add_item_request(item, collection))
                in_flight += 1
                if in_flight == max_in_flight:
                    yield convert.add_result(await self._result(call, wait_s))
                    in_flight -= 1
            requests.put_nowait(None)
            for _ in range(in_flight):
                yield convert.add_result(await self._result(call, wait_s))
            # Every result is in. Reading on to the end lets the server end the call, not us.
            with suppress(SearchError):
                await self._next(call, wait_s)
        finally:
            requests.put_nowait(None)
            call.cancel()

    async def get_image(
        self, id: str, *, collection: str = "", timeout_s: float | None = None
    ) -> Image:
        """Gets an image; as ``SearchClient.get_image``."""
        request = pb.GetImageRequest(id=id, collection=collection)
        response, _ = await self._call(self._stub.GetImage, request, timeout_s)
        return convert.image(response.image)

    async def list_images(
        self, *, collection: str = "", page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Image]:
        """Yields all images, ordered by id; as ``SearchClient.list_images``."""
        page_token = ""
        while True:
            page = await self.list_page(
                page_token, page_size=page_size, collection=collection, timeout_s=timeout_s
            )
            for image in page.images:
                yield image
            if not (page_token := page.next_page_token):
                return

    async def list_page(
        self,
        page_token: str = "",
        *,
        page_size: int = 0,
        collection: str = "",
        timeout_s: float | None = None,
    ) -> ImagePage:
        """Gets one page of images; as ``SearchClient.list_page``."""
        request = pb.ListImagesRequest(
            page_size=page_size, page_token=page_token, collection=collection
        )
        response, _ = await self._call(self._stub.ListImages, request, timeout_s)
        return convert.image_page(response)

    async def delete_image(
        self, id: str, *, collection: str = "", timeout_s: float | None = None
    ) -> None:
        """Deletes an image; as ``SearchClient.delete_image``."""
        request = pb.DeleteImageRequest(id=id, collection=collection)
        await self._call(self._stub.DeleteImage, request, timeout_s)
