"""The client for programs with threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from os import PathLike
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from clipsearch import _convert
from clipsearch._channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, open_channel
from clipsearch._errors import (
    SearchError,
    error_from_rpc,
    no_result_in_time,
    stream_ended_early,
)
from clipsearch._models import (
    AddedImage,
    AddItem,
    AddResult,
    EmbeddedImage,
    Image,
    ImagePage,
    Metadata,
    QueryResult,
    ServerInfo,
)
from clipsearch._retry import RetryBudget, effective_timeout_s
from clipsearch._timing import timings_ms
from clipsearch._watchdog import Watchdog
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class SearchClient:
    """Adds images to a clipsearch server and finds them by describing them.

    >>> with SearchClient("localhost:50051") as client:
    ...     client.add_image(url="https://example.com/cat.jpg")
    ...     for hit in client.query_text("a black cat").hits:
    ...         print(hit.score, hit.image.uri)

    One client is meant to live long and may be shared by threads. Every method raises a
    ``SearchError``, and takes ``timeout_s``, the seconds for the whole call with its retries, in
    place of the client's own. A call that the server could not be reached for, or that it was too
    busy for and asked to repeat, is repeated within that time. ``collection`` names a collection
    other than the server's default.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: bool = False,
        ca_file: str | PathLike[str] | None = None,
    ) -> None:
        """Connects to ``host:port`` at the first call.

        ``ca_file`` (PEM) names the root certificates to trust instead of the system's, and implies
        ``tls``. Raises OSError if it cannot be read.
        """
        self._target = target
        self._timeout_s = timeout_s
        self._channel = open_channel(target, tls=tls, ca_file=ca_file)
        self._stub = ImageSearchServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the calls that are under way."""
        self._channel.close()

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
        timeout_s: float | None = None,
    ) -> AddedImage:
        """Adds an image, by a URL that the server fetches or by its encoded content.

        When this returns, the image will be found, and no crash of the server loses it. Adding it
        again changes nothing: without ``id`` (a UUID), the id is derived from the URL or the
        content. ``uri`` says where the picture can be seen, ``metadata`` is anything that JSON can
        hold, ``fetch_headers`` what the server sends to the URL's host, such as ``Authorization``.
        A program that may have to repeat a call, after a restart of its own for example, gives a
        ``request_id`` (a UUID): the repetition gets the first call's answer.

        Raises InvalidRequestError, InvalidImageError or SourceError if the image cannot be had or
        is none, and TypeError unless exactly one of ``url`` and ``content`` is given.
        """
        request = _convert.add_request(
            url=url,
            content=content,
            id=id,
            uri=uri,
            metadata=metadata,
            collection=collection,
            fetch_headers=fetch_headers,
            # The same in each attempt, so that the last one tells what the first one did.
            request_id=request_id or str(uuid4()),
        )
        response, _ = self._call(self._stub.AddImage, request, timeout_s)
        return _convert.added_image(response)

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
        call = self._stub.AddImages(iter(requests.get, None))
        in_flight = 0
        try:
            with Watchdog(call.cancel, wait_s) as watchdog:
                for item in items:
                    requests.put(_convert.add_item_request(item, collection))
                    in_flight += 1
                    if in_flight == max_in_flight:
                        yield _convert.add_result(self._result(call, watchdog))
                        in_flight -= 1
                requests.put(None)
                for _ in range(in_flight):
                    yield _convert.add_result(self._result(call, watchdog))
                # Every result is in. Reading on to the end lets the server end the call, not us.
                with suppress(SearchError):
                    self._next(call, watchdog)
        finally:
            requests.put(None)
            call.cancel()

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
            pb.ExportImagesRequest(start_id=start_id, collection=collection)
        )
        try:
            with Watchdog(call.cancel, wait_s) as watchdog:
                fingerprint = self._result(call, watchdog).model.fingerprint
                while (page := self._next(call, watchdog)) is not None:
                    for message in page.images:
                        yield _convert.embedded_image(message, fingerprint)
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
        call = self._stub.ImportImages(iter(requests.get, None))
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

    def query_text(
        self,
        text: str,
        *,
        limit: int = 0,
        page_token: str = "",
        score_threshold: float | None = None,
        collection: str = "",
        timeout_s: float | None = None,
    ) -> QueryResult:
        """Finds the images that a text describes, best first.

        ``limit`` is the number of hits at most (0: the server's default), ``score_threshold``
        the cosine similarity below which an image is no hit, ``page_token`` an earlier result's
        ``next_page_token``. A text too long for the model is cut, and the result says so. Raises
        InvalidRequestError if the text is empty.
        """
        request = _convert.query_request(
            text,
            limit=limit,
            page_token=page_token,
            score_threshold=score_threshold,
            collection=collection,
        )
        response, call = self._call(self._stub.QueryText, request, timeout_s)
        return _convert.query_result(response, timings_ms(call.trailing_metadata() or ()))

    def get_image(self, id: str, *, collection: str = "", timeout_s: float | None = None) -> Image:
        """Gets an image. Raises NotFoundError if no image has the id."""
        request = pb.GetImageRequest(id=id, collection=collection)
        response, _ = self._call(self._stub.GetImage, request, timeout_s)
        return _convert.image(response.image)

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
        return _convert.image_page(response)

    def delete_image(
        self, id: str, *, collection: str = "", timeout_s: float | None = None
    ) -> None:
        """Deletes an image. Raises NotFoundError if no image has the id."""
        request = pb.DeleteImageRequest(id=id, collection=collection)
        self._call(self._stub.DeleteImage, request, timeout_s)

    def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Gets the server's version, model, backends, collections and limits."""
        response, _ = self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), timeout_s)
        return _convert.server_info(response)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> tuple[_Response, grpc.Call]:
        budget = RetryBudget(effective_timeout_s(timeout_s, self._timeout_s))
        while True:
            try:
                return method.with_call(request, timeout=budget.remaining_s)
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error, self._target)
                pause_s = budget.take_pause_s(error)
                if pause_s is None:
                    raise error from rpc_error
            time.sleep(pause_s)

    def _result(self, call: grpc._CallIterator[_Response], watchdog: Watchdog) -> _Response:
        """Returns the stream's next response, where there must be one."""
        response = self._next(call, watchdog)
        if response is None:
            raise stream_ended_early(self._target)
        return response

    def _next(self, call: grpc._CallIterator[_Response], watchdog: Watchdog) -> _Response | None:
        """Returns the stream's next response; None if the server has ended it."""
        watchdog.arm()
        try:
            return next(call, None)
        except grpc.RpcError as rpc_error:
            if watchdog.expired:
                raise no_result_in_time(self._target, watchdog.wait_s) from rpc_error
            raise error_from_rpc(rpc_error, self._target) from rpc_error
        finally:
            watchdog.disarm()


def _pages(images: Iterable[EmbeddedImage], collection: str) -> Iterator[pb.ImportImagesRequest]:
    pages = _convert.ImportPages(collection)
    for image in images:
        if (page := pages.add(image)) is not None:
            yield page
    if (page := pages.rest()) is not None:
        yield page
