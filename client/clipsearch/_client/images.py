"""Images: added, got, listed and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from uuid import uuid4

from clipsearch._client.connection import Connection
from clipsearch._convert import images as convert
from clipsearch._errors import SearchError
from clipsearch._models import AddedImage, AddItem, AddResult, Image, ImagePage, Metadata
from clipsearch._retry import effective_timeout_s
from clipsearch._tracing import trace_metadata
from clipsearch._watchdog import Watchdog
from clipsearch.v1 import image_search_pb2 as pb


class ImageMethods(Connection):
    """A part of SearchClient."""

    def add_image(
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
        """Adds an image, by a URL that the server fetches or by its encoded content.

        When this returns, the image will be found, and no crash of the server loses it. Adding it
        again changes nothing: without ``id`` (a UUID), the id is derived from the URL or the
        content. ``uri`` says where the picture can be seen, ``metadata`` is anything that JSON can
        hold, ``fetch_headers`` what the server sends to the URL's host, such as ``Authorization``.
        A program that may have to repeat a call, after a restart of its own for example, gives a
        ``request_id`` (a UUID): the repetition gets the first call's answer. ``create_time`` says
        when an image that is moved here was first stored.

        Raises InvalidRequestError, InvalidImageError or SourceError if the image cannot be had or
        is none, TypeError unless exactly one of ``url`` and ``content`` is given, and ValueError if
        ``create_time`` has no time zone.
        """
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
        response, _ = self._call(self._stub.AddImage, request, timeout_s)
        return convert.added_image(response)

    def add_images(
        self,
        items: Iterable[AddItem],
        *,
        collection: str = "",
        max_in_flight: int = 32,
        timeout_s: float | None = None,
    ) -> Iterator[AddResult]:
        """Adds many images over one stream and yields what became of each, in the order in which
        they are done.

        ``items`` is consumed while results are: the first result comes when ``max_in_flight`` items
        (all, if there are fewer) are under way, and from then on an item is taken for each result,
        so that no more are in memory. A bad item yields its error and does not disturb the others;
        only one larger than a message may be, ``server_info().limits.max_image_bytes`` and 1 MiB
        for the rest, ends the whole stream. ``timeout_s`` bounds the wait for the next result, not
        the whole. Leaving the iteration early, or an exception of ``items``, cancels what has no
        result yet; such items may be added again.

        Raises SearchError if the stream itself fails, and TypeError or ValueError for an item that
        ``add_image`` would raise it for.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; one item at least must be")
        requests: SimpleQueue[pb.AddImagesRequest | None] = SimpleQueue()
        call = self._stub.AddImages(
            iter(requests.get, None), metadata=(*self._metadata, *trace_metadata())
        )
        in_flight = 0
        try:
            with Watchdog(call.cancel, wait_s) as watchdog:
                for item in items:
                    requests.put(convert.add_item_request(item, collection))
                    in_flight += 1
                    if in_flight == max_in_flight:
                        yield convert.add_result(self._result(call, watchdog))
                        in_flight -= 1
                requests.put(None)
                for _ in range(in_flight):
                    yield convert.add_result(self._result(call, watchdog))
                # Every result is in. Reading on to the end lets the server end the call, not us.
                with suppress(SearchError):
                    self._next(call, watchdog)
        finally:
            requests.put(None)
            call.cancel()

    def get_image(self, id: str, *, collection: str = "", timeout_s: float | None = None) -> Image:
        """Gets an image. Raises NotFoundError if no image has the id."""
        request = pb.GetImageRequest(id=id, collection=collection)
        response, _ = self._call(self._stub.GetImage, request, timeout_s)
        return convert.image(response.image)

    def list_images(
        self, *, collection: str = "", page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Image]:
        """Yields all images, ordered by id, fetching a page at a time; the timeout is a page's."""
        page_token = ""
        while True:
            page = self.list_page(
                page_token, page_size=page_size, collection=collection, timeout_s=timeout_s
            )
            yield from page.images
            if not (page_token := page.next_page_token):
                return

    def list_page(
        self,
        page_token: str = "",
        *,
        page_size: int = 0,
        collection: str = "",
        timeout_s: float | None = None,
    ) -> ImagePage:
        """Gets one page of images, the first or that of an earlier page's ``next_page_token``.

        ``page_size`` is the number of images at most (0: the server's default).
        """
        request = pb.ListImagesRequest(
            page_size=page_size, page_token=page_token, collection=collection
        )
        response, _ = self._call(self._stub.ListImages, request, timeout_s)
        return convert.image_page(response)

    def delete_image(
        self, id: str, *, collection: str = "", timeout_s: float | None = None
    ) -> None:
        """Deletes an image. Raises NotFoundError if no image has the id."""
        request = pb.DeleteImageRequest(id=id, collection=collection)
        self._call(self._stub.DeleteImage, request, timeout_s)
