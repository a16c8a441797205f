"""Images, and how they are added."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from clipsearch._convert.metadata import fill_struct, metadata_of
from clipsearch._convert.times import timestamp
from clipsearch._errors import error_from_status
from clipsearch._models import (
    AddedImage,
    AddItem,
    AddOutcome,
    AddResult,
    Image,
    ImagePage,
    Metadata,
)
from clipsearch.v1 import image_search_pb2 as pb

_OUTCOMES = {
    pb.ADD_OUTCOME_ADDED: AddOutcome.ADDED,
    pb.ADD_OUTCOME_UNCHANGED: AddOutcome.UNCHANGED,
    pb.ADD_OUTCOME_REPLACED: AddOutcome.REPLACED,
    pb.ADD_OUTCOME_DUPLICATE: AddOutcome.DUPLICATE,
}


def add_request(
    *,
    url: str | None,
    content: bytes | None,
    id: str,
    uri: str,
    metadata: Metadata | None,
    collection: str,
    fetch_headers: Mapping[str, str] | None,
    request_id: str,
    create_time: datetime | None,
) -> pb.AddImageRequest:
    """Raises TypeError unless exactly one of url and content is given, ValueError if the metadata
    holds what JSON cannot or the time has no time zone."""
    if (url is None) == (content is None):
        raise TypeError("give either url or content")
    request = pb.AddImageRequest(
        id=id,
        uri=uri,
        collection=collection,
        fetch_headers=fetch_headers,
        request_id=request_id,
        create_time=None if create_time is None else timestamp(create_time),
    )
    if url is not None:
        request.url = url
    if content is not None:
        request.content = content
    if metadata:
        fill_struct(request.metadata, metadata)
    return request


def add_item_request(item: AddItem, collection: str) -> pb.AddImagesRequest:
    """Raises as ``add_request``."""
    return pb.AddImagesRequest(
        item_id=item.item_id,
        request=add_request(
            url=item.url,
            content=item.content,
            id=item.id,
            uri=item.uri,
            metadata=item.metadata,
            collection=collection,
            fetch_headers=item.fetch_headers,
            request_id="",
            create_time=item.create_time,
        ),
    )


def added_image(message: pb.AddImageResponse) -> AddedImage:
    outcome = _OUTCOMES.get(message.outcome, AddOutcome.UNSPECIFIED)
    return AddedImage(
        image=image(message.image), outcome=outcome, duplicate_of=message.duplicate_of
    )


def add_result(message: pb.AddImagesResponse) -> AddResult:
    if message.WhichOneof("result") == "error":
        return AddResult(item_id=message.item_id, error=error_from_status(message.error))
    return AddResult(item_id=message.item_id, added=added_image(message.response))


def image(message: pb.Image) -> Image:
    return Image(
        id=message.id,
        url=message.url,
        uri=message.uri,
        metadata=metadata_of(message.metadata),
        sha256=message.sha256,
        media_type=message.media_type,
        width_px=message.width_px,
        height_px=message.height_px,
        size_bytes=message.size_bytes,
        create_time=message.create_time.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
        duplicate_of=message.duplicate_of,
    )


def image_page(message: pb.ListImagesResponse) -> ImagePage:
    return ImagePage(
        images=tuple(image(item) for item in message.images),
        next_page_token=message.next_page_token,
        total_size=message.total_size,
    )
