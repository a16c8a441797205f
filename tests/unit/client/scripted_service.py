"""A service whose answers a test writes down, and both clients behind one face."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from clipsearch import AsyncSearchClient, SearchClient
from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer

Handler = Callable[[Any, grpc.ServicerContext], Any]


def make_status(
    code: grpc.StatusCode, message: str, reason: str = "", *details: Message, **metadata: str
) -> status_pb2.Status:
    """The google.rpc.Status that the server would send."""
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain="clipsearch", metadata=metadata)
    for detail in (info, *details):
        status.details.add().Pack(detail)
    return status


class ScriptedService(ImageSearchServiceServicer):
    """Answers each call of a method with the next thing on its list, the last one for ever.

    A thing is a response, a google.rpc.Status to fail with, or a handler.
    """

    def __init__(self) -> None:
        self.target = ""
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self._script: dict[str, list[Message | Handler]] = {}

    def answer(self, method: str, *things: Message | Handler) -> None:
        self._script[method] = list(things)

    def _run(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests[method].append(request)
        things = self._script[method]
        thing = things.pop(0) if len(things) > 1 else things[0]
        if isinstance(thing, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(thing))
        return thing if isinstance(thing, Message) else thing(request, context)

    def AddImages(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:
        yield from self._run("AddImages", request_iterator, context)

    def ExportImages(self, request: Any, context: grpc.ServicerContext) -> Any:
        yield from self._run("ExportImages", request, context)

    def ImportImages(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:
        yield from self._run("ImportImages", request_iterator, context)


def _unary(method: str) -> Callable[[ScriptedService, Any, grpc.ServicerContext], Any]:
    return lambda service, request, context: service._run(method, request, context)


for _method in pb.DESCRIPTOR.services_by_name["ImageSearchService"].methods:
    if not (_method.client_streaming or _method.server_streaming):
        setattr(ScriptedService, _method.name, _unary(_method.name))


def make_image(number: int = 0, **fields: Any) -> pb.Image:
    """A stored image as the server would send it."""
    values: dict[str, Any] = {
        "id": f"00000000-0000-0000-0000-{number:012d}",
        "uri": f"file:///pictures/cat%20{number}.png",
        "sha256": f"{number:064x}",
        "media_type": "image/png",
        "width_px": 640,
        "height_px": 480,
        "size_bytes": 12_345,
    }
    return pb.Image(**(values | fields))


def make_embedded(number: int, dim: int = 4, **fields: Any) -> pb.EmbeddedImage:
    """A stored image with its embedding, as the server would send it."""
    image = make_image(number, **fields)
    image.create_time.FromMicroseconds(1_700_000_000_000_000 + number)
    image.update_time.FromMicroseconds(1_700_000_000_123_456 + number)
    # Numbers that float32 rounds.
    return pb.EmbeddedImage(image=image, embedding=[number + axis / 10 for axis in range(dim)])


def export_pages(
    *pages: list[pb.EmbeddedImage], fingerprint: str = "abc"
) -> list[pb.ExportImagesResponse]:
    """The whole answer to an export."""
    head = pb.ExportImagesResponse(
        model=pb.Model(fingerprint=fingerprint), total_size=sum(map(len, pages))
    )
    return [head, *(pb.ExportImagesResponse(images=page) for page in pages)]


def added(
    request: pb.AddImagesRequest, outcome: pb.AddOutcome.ValueType = pb.ADD_OUTCOME_ADDED
) -> pb.AddImagesResponse:
    """The result of an item whose id is a number."""
    image = make_image(int(request.item_id), uri=request.request.uri, url=request.request.url)
    response = pb.AddImageResponse(image=image, outcome=outcome)
    return pb.AddImagesResponse(item_id=request.item_id, response=response)


class Driver:
    """SearchClient or AsyncSearchClient, called in one way."""

    def __init__(self, client: SearchClient | AsyncSearchClient) -> None:
        self.client = client

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        function = getattr(self.client, method)
        if isinstance(self.client, AsyncSearchClient):
            return await function(*args, **options)
        return await asyncio.to_thread(function, *args, **options)

    async def iterate(self, method: str, *args: Any, **options: Any) -> AsyncIterator[Any]:
        iterator = getattr(self.client, method)(*args, **options)
        if isinstance(self.client, AsyncSearchClient):
            async with contextlib.aclosing(iterator):
                async for value in iterator:
                    yield value
            return
        end = object()
        with contextlib.closing(iterator):
            while (value := await asyncio.to_thread(next, iterator, end)) is not end:
                yield value

    async def collect(self, method: str, *args: Any, **options: Any) -> list[Any]:
        return [value async for value in self.iterate(method, *args, **options)]
