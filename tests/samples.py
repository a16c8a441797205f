"""Pictures made on the spot, and what is stored of some."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from uuid import UUID

from PIL import Image

from clipsearch_server.ports import StoredImage


def png(colour: str, size: tuple[int, int] = (20, 10)) -> bytes:
    """A PNG of one colour."""
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def an_image(number: int) -> StoredImage:
    """What is stored of an image whose id is the number."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return StoredImage(
        id=UUID(int=number),
        url="",
        uri=str(number),
        metadata={},
        sha256=f"{number:064x}",
        media_type="image/png",
        width_px=20,
        height_px=10,
        size_bytes=100,
        create_time=now,
        update_time=now,
    )
