"""Images with their embeddings: exported and imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue

from clipsearch._client.connection import Connection
from clipsearch._convert import transfer as convert
from clipsearch._errors import SearchError
from clipsearch._models import EmbeddedImage
from clipsearch._retry import effective_timeout_s
from clipsearch._tracing import trace_metadata
from clipsearch._watchdog import Watchdog
from clipsearch.v1 import image_search_pb2 as pb


class TransferMethods(Connection):
    """A part of SearchClient."""

    def export_images(
        self, *, start_id: str = "", collection: str = "", timeout_s: float | None = None
    ) -> Iterator[EmbeddedImage]:
        """Yields all images with their embeddings, ordered by id, over one stream.

        They come a page at a time, as they are asked for, so that no more are in memory: a
        collection of any size can be read. If the iteration ends, nothing is missing; if it fails,
        ``start_id`` goes on from there. An image that is added or deleted meanwhile may be among
        them or not. ``timeout_s`` bounds the wait for the next page, not the whole.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        call = self._stub.ExportImages(
            pb.ExportImagesRequest(start_id=start_id, collection=collection),
            metadata=(*self._metadata, *trace_metadata()),
        )
        try:
            with Watchdog(call.cancel, wait_s) as watchdog:
                fingerprint = self._result(call, watchdog).model.fingerprint
                while (page := self._next(call, watchdog)) is not None:
                    for message in page.images:
                        yield convert.embedded_image(message, fingerprint)
        finally:
            call.cancel()

    def import_images(
        self,
        images: Iterable[EmbeddedImage],
        *,
        collection: str = "",
        timeout_s: float | None = None,
    ) -> Iterator[int]:
        """Stores images as another server exported them, and yields after each page how many are
        stored so far.

        An image is stored under its id, in place of what is there, with its times kept. Those
        counted will be found, and no crash of the server loses them; whatever comes after may be
        imported again. ``images`` is consumed a page at a time, so that no more are in memory.
        ``timeout_s`` bounds the wait for the next page to be stored, not the whole.

        >>> for stored in there.import_images(here.export_images()):
        ...     print(stored)

        Raises ModelMismatchError if the server's model is not that which embedded the images,
        InvalidRequestError if an image is not as a server would export it, SearchError if the
        stream itself fails, and ValueError if two images are of two models.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        requests: SimpleQueue[pb.ImportImagesRequest | None] = SimpleQueue()
        call = self._stub.ImportImages(
            iter(requests.get, None), metadata=(*self._metadata, *trace_metadata())
        )
        is_under_way = False
        try:
            with Watchdog(call.cancel, wait_s) as watchdog:
                # One page is stored while the next is made.
                for page in _pages(images, collection):
                    if is_under_way:
                        yield self._result(call, watchdog).image_count
                    requests.put(page)
                    is_under_way = True
                requests.put(None)
                if is_under_way:
                    yield self._result(call, watchdog).image_count
                with suppress(SearchError):
                    self._next(call, watchdog)
        finally:
            requests.put(None)
            call.cancel()


def _pages(images: Iterable[EmbeddedImage], collection: str) -> Iterator[pb.ImportImagesRequest]:
    pages = convert.ImportPages(collection)
    for image in images:
        if (page := pages.add(image)) is not None:
            yield page
    if (page := pages.rest()) is not None:
        yield page
