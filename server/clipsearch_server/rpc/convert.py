"""Protobuf messages to and from what the engine takes, and the checks that need only the request.

Every function is pure. What is wrong with a field raises InvalidRequest with the field's path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.adding import AddedImage, AddOutcome, NewImage
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.model import ModelCard
from clipsearch_server.ports import ImagePage, JsonValue, Metadata, StoredImage
from clipsearch_server.rpc.fetch_headers import fetch_headers
from clipsearch_server.rpc.page_tokens import bad_token, decode_token, encode_token

MAX_LIMIT = 1000
DEFAULT_PAGE_SIZE = 100
MAX_URI_BYTES = 2_048
MAX_METADATA_BYTES = 16_384
# protobuf reads 100 messages within each other; a level of metadata is two or three of them, and
# what answers with it wraps it in up to five.
MAX_METADATA_DEPTH = 16
MAX_ITEM_ID_BYTES = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.I)

_OUTCOMES = {
    AddOutcome.ADDED: pb.ADD_OUTCOME_ADDED,
    AddOutcome.UNCHANGED: pb.ADD_OUTCOME_UNCHANGED,
    AddOutcome.REPLACED: pb.ADD_OUTCOME_REPLACED,
    AddOutcome.DUPLICATE: pb.ADD_OUTCOME_DUPLICATE,
}


def new_image(request: pb.AddImageRequest) -> NewImage:
    """Checks a request to add an image."""
    source = request.WhichOneof("source")
    if source is None:
        raise InvalidRequest("source", "set url or content: one of them is the image")
    content = request.content if source == "content" else None  # each reading makes a copy
    if content is None:
        check_url("url", request.url)
    else:
        check_content("content", content)
    if request.fetch_headers and source != "url":
        raise InvalidRequest("fetch_headers", "are for the host of a url; leave them out")
    check_bytes("uri", request.uri, MAX_URI_BYTES)
    return NewImage(
        url=request.url if source == "url" else None,
        content=content,
        id=optional_id(request.id, "id"),
        uri=request.uri,
        metadata=metadata_of(request.metadata) if request.HasField("metadata") else {},
        fetch_headers=fetch_headers(request.fetch_headers),
        create_time=_create_time(request) if request.HasField("create_time") else None,
    )


def image_id(value: str, field: str = "id") -> UUID:
    """Reads an image's id."""
    if not _UUID.fullmatch(value):  # UUID() takes much more
        raise InvalidRequest(
            field, "is not a UUID, for example 7d444840-9dc0-11d1-b245-5ffdce74fad2"
        )
    return UUID(value)


def optional_id(value: str, field: str) -> UUID | None:
    """Reads an id; an empty one is none."""
    return image_id(value, field) if value else None


def page_limit(name: str, value: int, *, default: int) -> int:
    """The number of results on a page (AIP-158): 0 is the default, too many is coerced."""
    if value < 0:
        raise InvalidRequest(name, "must not be negative")
    return min(value or default, MAX_LIMIT)


def check_item_id(item_id: str) -> None:
    """Checks the caller's name for an item of a bulk add."""
    check_bytes("item_id", item_id, MAX_ITEM_ID_BYTES)


def list_start(page_token: str) -> UUID | None:
    """Reads where a page of images starts."""
    if not page_token:
        return None
    raw = decode_token(page_token)
    if len(raw) != 16:
        raise bad_token()
    return UUID(bytes=raw)


def add_response(added: AddedImage) -> pb.AddImageResponse:
    return pb.AddImageResponse(
        image=image(added.image),
        outcome=_OUTCOMES[added.outcome],
        duplicate_of=_id_text(added.duplicate_of),
    )


def list_response(page: ImagePage, total: int) -> pb.ListImagesResponse:
    return pb.ListImagesResponse(
        images=[image(stored) for stored in page.images],
        next_page_token=encode_token(page.next_id.bytes) if page.next_id else "",
        total_size=total,
    )


def image(stored: StoredImage) -> pb.Image:
    """Writes an image as callers see it."""
    message = pb.Image(
        id=str(stored.id),
        url=stored.url,
        uri=stored.uri,
        sha256=stored.sha256,
        media_type=stored.media_type,
        width_px=stored.width_px,
        height_px=stored.height_px,
        size_bytes=stored.size_bytes,
        create_time=_timestamp(stored.create_time),
        update_time=_timestamp(stored.update_time),
        duplicate_of=_id_text(stored.duplicate_of),
    )
    if stored.metadata:
        message.metadata.update(stored.metadata)
    return message


def _timestamp(time: datetime) -> Timestamp:
    """As Timestamp.FromDatetime, which takes three times as long."""
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def _id_text(image_id: UUID | None) -> str:
    return "" if image_id is None else str(image_id)


def model(card: ModelCard) -> pb.Model:
    return pb.Model(
        id=card.model_id,
        fingerprint=card.fingerprint,
        precision=card.precision,
        embedding_dim=card.embedding_dim,
        image_size_px=card.image_size_px,
        max_tokens=card.max_tokens,
    )


def _create_time(request: pb.AddImageRequest) -> datetime:
    """Cut to whole microseconds, as times are stored."""
    if request.create_time.seconds < 0:
        raise InvalidRequest("create_time", "is before the year 1970")
    try:
        return request.create_time.ToDatetime(UTC)
    except ValueError as error:
        raise InvalidRequest("create_time", "is not a time of the years 1970 to 9999") from error


def metadata_of(message: Struct) -> Metadata:
    try:
        metadata: Metadata = MessageToDict(message)
    except ValueError:
        raise InvalidRequest(
            "metadata", "holds a number that JSON cannot: NaN or infinity"
        ) from None
    if _depth(metadata) > MAX_METADATA_DEPTH:
        raise InvalidRequest(
            "metadata", f"is nested more than {MAX_METADATA_DEPTH} levels deep; flatten it"
        )
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(
            "metadata", f"is {size} bytes as JSON; at most {MAX_METADATA_BYTES} are stored"
        )
    return metadata


def _depth(value: JsonValue) -> int:
    """How many objects and arrays lie within each other."""
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return 1 + max(map(_depth, value), default=0)
    return 0


def check_url(name: str, url: str) -> None:
    if not url:
        raise InvalidRequest(name, "is empty; give an http or https URL", reason="URL_MALFORMED")


def check_content(name: str, content: bytes) -> None:
    if not content:
        raise InvalidRequest(
            name,
            "is empty; give the bytes of a JPEG, PNG, WEBP or GIF",
            reason="IMAGE_FORMAT_UNSUPPORTED",
        )


def check_bytes(name: str, value: str, limit: int) -> None:
    size = len(value.encode())
    if size > limit:
        raise InvalidRequest(name, f"is {size} bytes; at most {limit} are taken")
