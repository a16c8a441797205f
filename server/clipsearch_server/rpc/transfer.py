"""Images with their embeddings, to and from messages: export and import.

The only part of ``rpc`` that sees an embedding. Every function is pure; what is wrong with a field
raises InvalidRequest with the field's path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest, ModelMismatch
from clipsearch_server.ports import CollectionSpec, EmbeddedPage, Embeddings, StoredImage
from clipsearch_server.rpc import convert

# What a request may ask of the event loop at once: about 7 ms, of images of 512 dimensions.
MAX_IMAGES = 128

# The demo model's vectors differ from 1 by 1e-7; those of a file in half precision, by 1e-4.
NORM_TOLERANCE = 1e-3

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]{1,64}")


def export_response(page: EmbeddedPage) -> pb.ExportImagesResponse:
    return pb.ExportImagesResponse(
        images=[
            pb.EmbeddedImage(image=convert.image(stored), embedding=embedding)
            for stored, embedding in zip(page.images, page.embeddings.tolist(), strict=True)
        ]
    )


def check_model(request: pb.ImportImagesRequest, spec: CollectionSpec) -> None:
    """Checks that the images of a stream are of a collection's model. Raises ModelMismatch."""
    theirs, ours = request.model_fingerprint, spec.fingerprint
    if not theirs:
        raise InvalidRequest("model_fingerprint", "is empty; say which model embedded the images")
    if theirs != ours:
        shown = theirs[:64]  # what travels with a status may not be as long as a message
        raise ModelMismatch(
            f"the images were embedded by a model with the fingerprint {shown}, and the "
            f"collection's model, {spec.model_id}, has {ours}: their embeddings cannot be "
            "compared; add the images anew, or import them into a collection of their model",
            images_fingerprint=shown,
            server_fingerprint=ours,
        )


def imported_images(
    request: pb.ImportImagesRequest, embedding_dim: int
) -> tuple[list[StoredImage], Embeddings]:
    """Reads a page of images and their embeddings (n, embedding_dim): finite, of norm 1."""
    if len(request.images) > MAX_IMAGES:
        raise InvalidRequest(
            "images", f"are {len(request.images)}; at most {MAX_IMAGES} are taken at a time"
        )
    images = []
    embeddings = np.empty((len(request.images), embedding_dim), np.float32)
    for row, message in enumerate(request.images):
        with _inside(f"images[{row}]"):
            images.append(_image(message))
            size = len(message.embedding)
            if size != embedding_dim:
                raise InvalidRequest(
                    "embedding", f"has {size} numbers; the model has {embedding_dim} dimensions"
                )
            embeddings[row] = np.fromiter(message.embedding, np.float32, size)
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # NaN is wrong too
    if len(wrong):
        raise InvalidRequest(
            f"images[{wrong[0]}].embedding", f"has a norm of {norms[wrong[0]]:g}; it must be 1"
        )
    return images, embeddings


def _image(message: pb.EmbeddedImage) -> StoredImage:
    if not message.HasField("image"):
        raise InvalidRequest("image", "is missing")
    with _inside("image"):
        return _stored_image(message.image)


def _stored_image(message: pb.Image) -> StoredImage:
    """Reads an image as ``convert.image`` writes it."""
    convert.check_bytes("url", message.url, convert.MAX_URI_BYTES)
    convert.check_bytes("uri", message.uri, convert.MAX_URI_BYTES)
    if not _SHA256.fullmatch(message.sha256):
        raise InvalidRequest("sha256", "is not a SHA-256 in lower-case hexadecimal")
    if not _MEDIA_TYPE.fullmatch(message.media_type):
        raise InvalidRequest("media_type", "is not an image's media type, for example image/jpeg")
    for field in ("width_px", "height_px", "size_bytes"):
        if getattr(message, field) < 1:
            raise InvalidRequest(field, "must be positive")
    return StoredImage(
        id=convert.image_id(message.id),
        url=message.url,
        uri=message.uri,
        metadata=convert.metadata_of(message.metadata) if message.HasField("metadata") else {},
        sha256=message.sha256,
        media_type=message.media_type,
        width_px=message.width_px,
        height_px=message.height_px,
        size_bytes=message.size_bytes,
        create_time=_time(message, "create_time"),
        update_time=_time(message, "update_time"),
        duplicate_of=convert.optional_id(message.duplicate_of, "duplicate_of"),
    )


def _time(message: pb.Image, field: str) -> datetime:
    if not message.HasField(field):  # type: ignore[arg-type]
        raise InvalidRequest(field, "is missing")
    timestamp: Timestamp = getattr(message, field)
    if timestamp.nanos % 1000:
        raise InvalidRequest(field, "is not in whole microseconds")
    try:
        return timestamp.ToDatetime(UTC)
    except ValueError as error:
        raise InvalidRequest(field, "is not a time of the years 1 to 9999") from error


@contextmanager
def _inside(path: str) -> Iterator[None]:
    """Names what is wrong inside by its path."""
    try:
        yield
    except InvalidRequest as error:
        error.field = f"{path}.{error.field}"
        raise
