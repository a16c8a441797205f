"""Images with their embeddings, as they are exported and imported."""

from __future__ import annotations

from array import array

from clipsearch._convert.images import image
from clipsearch._convert.metadata import fill_struct
from clipsearch._models import EmbeddedImage, Image
from clipsearch.v1 import image_search_pb2 as pb

# A page of an import: so few that a server embeds and answers others in between, and so small that
# with one image more it is below the smallest limit on messages that a server can have, 1 MiB.
_PAGE_IMAGES = 64
_PAGE_BYTES = 2**19


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
        fill_struct(message.metadata, image.metadata)
    message.create_time.FromDatetime(image.create_time)
    message.update_time.FromDatetime(image.update_time)
    return message
