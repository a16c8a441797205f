"""Protobuf messages <-> the public dataclasses: pure, and shared by both clients."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from clipsearch._errors import error_from_status
from clipsearch._models import (
    AddedImage,
    AddItem,
    AddOutcome,
    AddResult,
    Collection,
    EmbeddedImage,
    Hit,
    Image,
    ImagePage,
    JsonValue,
    Limits,
    Metadata,
    Model,
    QueryResult,
    ServerInfo,
)
from clipsearch.v1 import image_search_pb2 as pb

# A page of an import: so few that a server embeds and answers others in between, and so small that
# with one image more it is below the smallest limit on messages that a server can have, 1 MiB.
_PAGE_IMAGES = 64
_PAGE_BYTES = 2**19

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
) -> pb.AddImageRequest:
    """Raises TypeError unless exactly one of url and content is given, ValueError if the metadata
    holds what JSON cannot."""
    if (url is None) == (content is None):
        raise TypeError("give either url or content")
    request = pb.AddImageRequest(
        id=id, uri=uri, collection=collection, fetch_headers=fetch_headers, request_id=request_id
    )
    if url is not None:
        request.url = url
    if content is not None:
        request.content = content
    if metadata:
        _fill(request.metadata, metadata)
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


def query_request(
    text: str, *, limit: int, page_token: str, score_threshold: float | None, collection: str
) -> pb.QueryTextRequest:
    return pb.QueryTextRequest(
        text=text,
        limit=limit,
        page_token=page_token,
        score_threshold=score_threshold,
        collection=collection,
    )


def query_result(message: pb.QueryTextResponse, timings_ms: dict[str, float]) -> QueryResult:
    return QueryResult(
        hits=tuple(Hit(image=image(hit.image), score=hit.score) for hit in message.hits),
        truncated=message.text_truncated,
        token_count=message.token_count,
        next_page_token=message.next_page_token,
        timings_ms=timings_ms,
    )


def image(message: pb.Image) -> Image:
    return Image(
        id=message.id,
        url=message.url,
        uri=message.uri,
        metadata=_mapping(message.metadata),
        sha256=message.sha256,
        media_type=message.media_type,
        width_px=message.width_px,
        height_px=message.height_px,
        size_bytes=message.size_bytes,
        create_time=message.create_time.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
        duplicate_of=message.duplicate_of,
    )


def embedded_image(message: pb.EmbeddedImage, model_fingerprint: str) -> EmbeddedImage:
    return EmbeddedImage(
        image=image(message.image),
        embedding=array("f", message.embedding),
        model_fingerprint=model_fingerprint,
    )


class ImportPages:
    """Gathers images into requests of a size that any server takes."""

    def __init__(self, collection: str) -> None:
        self._collection = collection
        self._model_fingerprint: str | None = None  # until the first image tells
        self._page = pb.ImportImagesRequest()
        self._page_bytes = 0

    def add(self, embedded: EmbeddedImage) -> pb.ImportImagesRequest | None:
        """Returns a request if the image fills it.

        Raises ValueError if the image was embedded by another model than the first, or holds what
        no message can.
        """
        if self._model_fingerprint is None:
            self._model_fingerprint = embedded.model_fingerprint
            self._page.collection = self._collection
            self._page.model_fingerprint = embedded.model_fingerprint
        elif embedded.model_fingerprint != self._model_fingerprint:
            raise ValueError(
                f"images of two models, {self._model_fingerprint} and {embedded.model_fingerprint}"
            )
        message = self._page.images.add(
            image=_image_message(embedded.image), embedding=embedded.embedding
        )
        self._page_bytes += message.ByteSize()
        is_full = len(self._page.images) >= _PAGE_IMAGES or self._page_bytes >= _PAGE_BYTES
        return self.rest() if is_full else None

    def rest(self) -> pb.ImportImagesRequest | None:
        """Returns a request with what has been gathered, if anything has."""
        page, self._page, self._page_bytes = self._page, pb.ImportImagesRequest(), 0
        return page if page.images else None


def image_page(message: pb.ListImagesResponse) -> ImagePage:
    return ImagePage(
        images=tuple(image(item) for item in message.images),
        next_page_token=message.next_page_token,
        total_size=message.total_size,
    )


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    model, limits = message.model, message.limits
    return ServerInfo(
        version=message.version,
        model=Model(
            id=model.id,
            fingerprint=model.fingerprint,
            precision=model.precision,
            embedding_dim=model.embedding_dim,
            image_size_px=model.image_size_px,
            max_tokens=model.max_tokens,
        ),
        encoder=message.encoder,
        index=message.index,
        collections=tuple(
            Collection(name=it.name, image_count=it.image_count, is_default=it.is_default)
            for it in message.collections
        ),
        limits=Limits(
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            default_limit=limits.default_limit,
            max_limit=limits.max_limit,
            fetch_enabled=limits.fetch_enabled,
        ),
    )


def _image_message(image: Image) -> pb.Image:
    message = pb.Image(
        id=image.id,
        url=image.url,
        uri=image.uri,
        sha256=image.sha256,
        media_type=image.media_type,
        width_px=image.width_px,
        height_px=image.height_px,
        size_bytes=image.size_bytes,
        duplicate_of=image.duplicate_of,
    )
    if image.metadata:
        _fill(message.metadata, image.metadata)
    message.create_time.FromDatetime(image.create_time)
    message.update_time.FromDatetime(image.update_time)
    return message


def _fill(struct: Struct, metadata: Metadata) -> None:
    struct.update({key: _plain(value) for key, value in metadata.items()})


def _plain(value: JsonValue) -> Any:
    """The dicts and lists that protobuf takes, for any mappings and sequences."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _mapping(struct: Struct) -> dict[str, JsonValue]:
    return {key: _json(value) for key, value in struct.fields.items()}


def _json(value: Value) -> JsonValue:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            is_negative_zero = number == 0 and math.copysign(1, number) < 0  # no int is
            return int(number) if number.is_integer() and not is_negative_zero else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _mapping(value.struct_value)
        case "list_value":
            return [_json(item) for item in value.list_value.values]
        case _:
            return None
