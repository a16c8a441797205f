"""The client for programs with an event loop: SearchClient, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from os import PathLike
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, cast
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from clipsearch import _convert
from clipsearch._channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, open_aio_channel
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
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Item = TypeVar("_Item")

_StreamCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[_Request, _Response] | grpc.aio.StreamStreamCall[_Request, _Response]"
)

# What grpc.aio makes of a stream whose server ended it while a message was being sent, instead of
# the status that the server gave (grpc/aio/_call.py, _write).
_FAILED_WRITE = "Internal error from Core"


class AsyncSearchClient:
    """Adds images to a clipsearch server and finds them by describing them.

    >>> async with AsyncSearchClient("localhost:50051") as client:
    ...     result = await client.query_text("a black cat")

    It belongs to the event loop that runs when it is made, and may be shared by its tasks. The
    methods take, do and raise what those of ``SearchClient`` do.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: bool = False,
        ca_file: str | PathLike[str] | None = None,
    ) -> None:
        """Connects to ``host:port`` at the first call; as ``SearchClient``."""
        self._target = target
        self._timeout_s = timeout_s
        self._channel = open_aio_channel(target, tls=tls, ca_file=ca_file)
        self._stub = ImageSearchServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and ends the calls that are under way."""
        await self._channel.close()

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
        timeout_s: float | None = None,
    ) -> AddedImage:
        """Adds an image; as ``SearchClient.add_image``."""
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
        response, _ = await self._call(self._stub.AddImage, request, timeout_s)
        return _convert.added_image(response)

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
        call = self._stub.AddImages(_until_none(requests))
        in_flight = 0
        try:
            async for item in items if isinstance(items, AsyncIterable) else _iterate(items):
                requests.put_nowait(_convert.add_item_request(item, collection))
                in_flight += 1
                if in_flight == max_in_flight:
                    yield _convert.add_result(await self._result(call, wait_s))
                    in_flight -= 1
            requests.put_nowait(None)
            for _ in range(in_flight):
                yield _convert.add_result(await self._result(call, wait_s))
            # Every result is in. Reading on to the end lets the server end the call, not us.
            with suppress(SearchError):
                await self._next(call, wait_s)
        finally:
            requests.put_nowait(None)
            call.cancel()

    async def export_images(
        self, *, start_id: str = "", collection: str = "", timeout_s: float | None = None
    ) -> AsyncIterator[EmbeddedImage]:
        """Yields all images with their embeddings; as ``SearchClient.export_images``.

        An iteration that is left early ends its call when the iterator is closed
        (``contextlib.aclosing``) or the client is.
        """
        wait_s = effective_timeout_s(timeout_s, self._timeout_s)
        call = self._stub.ExportImages(
            pb.ExportImagesRequest(start_id=start_id, collection=collection)
        )
        try:
            fingerprint = (await self._result(call, wait_s)).model.fingerprint
            while (page := await self._next(call, wait_s)) is not None:
                for message in page.images:
                    yield _convert.embedded_image(message, fingerprint)
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
        call = self._stub.ImportImages(_until_none(requests))
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

    async def query_text(
        self,
        text: str,
        *,
        limit: int = 0,
        page_token: str = "",
        score_threshold: float | None = None,
        collection: str = "",
        timeout_s: float | None = None,
    ) -> QueryResult:
        """Finds the images that a text describes; as ``SearchClient.query_text``."""
        request = _convert.query_request(
            text,
            limit=limit,
            page_token=page_token,
            score_threshold=score_threshold,
            collection=collection,
        )
        response, call = await self._call(self._stub.QueryText, request, timeout_s)
        return _convert.query_result(response, timings_ms(await call.trailing_metadata()))

    async def get_image(
        self, id: str, *, collection: str = "", timeout_s: float | None = None
    ) -> Image:
        """Gets an image; as ``SearchClient.get_image``."""
        request = pb.GetImageRequest(id=id, collection=collection)
        response, _ = await self._call(self._stub.GetImage, request, timeout_s)
        return _convert.image(response.image)

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
        return _convert.image_page(response)

    async def delete_image(
        self, id: str, *, collection: str = "", timeout_s: float | None = None
    ) -> None:
        """Deletes an image; as ``SearchClient.delete_image``."""
        request = pb.DeleteImageRequest(id=id, collection=collection)
        await self._call(self._stub.DeleteImage, request, timeout_s)

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Gets what the server is; as ``SearchClient.server_info``."""
        request = pb.GetServerInfoRequest()
        response, _ = await self._call(self._stub.GetServerInfo, request, timeout_s)
        return _convert.server_info(response)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> tuple[_Response, grpc.aio.UnaryUnaryCall[_Request, _Response]]:
        budget = RetryBudget(effective_timeout_s(timeout_s, self._timeout_s))
        while True:
            call = method(request, timeout=budget.remaining_s)
            try:
                return await call, call
            except asyncio.CancelledError as cancelled:
                raise _closed_or(cancelled) from None
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error, self._target)
                pause_s = budget.take_pause_s(error)
                if pause_s is None:
                    raise error from rpc_error
            await asyncio.sleep(pause_s)

    async def _result(self, call: _StreamCall[_Request, _Response], wait_s: float) -> _Response:
        """Returns the stream's next response, where there must be one."""
        response = await self._next(call, wait_s)
        if response is None:
            raise stream_ended_early(self._target)
        return response

    async def _next(
        self, call: _StreamCall[_Request, _Response], wait_s: float
    ) -> _Response | None:
        """Returns the stream's next response, None if the server has ended it; a stream has no
        timeout of its own for that."""
        try:
            async with asyncio.timeout(wait_s):
                response = await call.read()
        except TimeoutError as error:
            raise no_result_in_time(self._target, wait_s) from error
        except asyncio.CancelledError as cancelled:
            raise _closed_or(cancelled) from None
        except grpc.RpcError as rpc_error:
            if rpc_error.details() == _FAILED_WRITE:
                raise stream_ended_early(self._target) from rpc_error
            raise error_from_rpc(rpc_error, self._target) from rpc_error
        return None if response is grpc.aio.EOF else cast("_Response", response)


def _closed_or(cancelled: asyncio.CancelledError) -> SearchError | asyncio.CancelledError:
    """grpc.aio tells with a CancelledError too that the client was closed under a call; a task that
    nobody cancelled gets what its other calls get."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return cancelled
    return SearchError(grpc.StatusCode.CANCELLED, "the client was closed")


async def _until_none(requests: asyncio.Queue[_Request | None]) -> AsyncIterator[_Request]:
    while (request := await requests.get()) is not None:
        yield request


async def _iterate(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    for item in items:
        yield item


async def _pages(
    images: Iterable[EmbeddedImage] | AsyncIterable[EmbeddedImage], collection: str
) -> AsyncIterator[pb.ImportImagesRequest]:
    pages = _convert.ImportPages(collection)
    async for image in images if isinstance(images, AsyncIterable) else _iterate(images):
        if (page := pages.add(image)) is not None:
            yield page
    if (page := pages.rest()) is not None:
        yield page
