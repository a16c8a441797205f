"""Pictures made on the spot."""

from __future__ import annotations

from io import BytesIO

from PIL import Image


def png(colour: str, size: tuple[int, int] = (20, 10)) -> bytes:
    """A PNG of one colour."""
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()
