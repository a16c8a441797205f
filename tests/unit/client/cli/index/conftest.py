"""A scripted server that stores what it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import grpc
import pytest
from grpc_status import rpc_status

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService, make_image, make_status

REFUSED = make_status(
    grpc.StatusCode.INVALID_ARGUMENT, "content: is not an image", "IMAGE_UNDECODABLE"
)
AWAY = make_status(
    grpc.StatusCode.FAILED_PRECONDITION, "the host is away", "SOURCE_TIMEOUT", retryable="true"
)
GONE = make_status(grpc.StatusCode.NOT_FOUND, "no image has this id", "IMAGE_NOT_FOUND")
DOWN = make_status(grpc.StatusCode.UNAVAILABLE, "the index is down", "INDEX_UNAVAILABLE")


class Shelf:
    """Stores what it is sent, by the contract's ids; `sent` is what that was, in order.

    What starts with a key of ``errors``, a content or a URL, gets that error.
    """

    def __init__(self) -> None:
        self.stored: dict[str, pb.AddImageRequest] = {}
        self.sent: list[pb.AddImageRequest] = []
        self.errors: dict[str, Any] = {"bad": REFUSED, "https://away": AWAY}

    @property
    def names(self) -> list[str]:
        """The URLs, or the ends of the uris, of what was sent since the last look."""
        names = [it.url or it.uri.rpartition("/")[2] for it in self.sent]
        self.sent.clear()
        return names

    def add(self, requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            yield self.answer(request)

    def answer(self, item: pb.AddImagesRequest) -> pb.AddImagesResponse:
        request = item.request
        self.sent.append(request)
        for start, error in self.errors.items():
            if (request.url or request.content.decode(errors="replace")).startswith(start):
                return pb.AddImagesResponse(item_id=item.item_id, error=error)
        sha256 = hashlib.sha256(request.content).hexdigest()
        image_id = request.id or str(uuid5(NAMESPACE_URL, request.url or f"sha256:{sha256}"))
        former = self.stored.get(image_id)
        outcome = (
            pb.ADD_OUTCOME_ADDED
            if former is None
            else pb.ADD_OUTCOME_UNCHANGED
            if former == request
            else pb.ADD_OUTCOME_REPLACED
        )
        self.stored[image_id] = request
        response = pb.AddImageResponse(image=make_image(id=image_id), outcome=outcome)
        return pb.AddImagesResponse(item_id=item.item_id, response=response)

    def get(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.id not in self.stored:
            context.abort_with_status(rpc_status.to_status(GONE))
        return pb.GetImageResponse(image=make_image(id=request.id))


@pytest.fixture
def shelf(service: ScriptedService) -> Shelf:
    shelf = Shelf()
    service.answer("AddImages", shelf.add)
    service.answer("GetImage", shelf.get)
    return shelf
