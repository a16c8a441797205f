"""A picture's uri -> the picture, for showing it."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from PIL import Image, ImageOps, UnidentifiedImageError

_FORMATS = ("GIF", "JPEG", "PNG", "WEBP")
_MAX_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class PictureError(Exception):
    """A picture that cannot be shown; the message says why."""


def load_picture(uri: str, *, max_side_px: int = 1024, timeout_s: float = 10.0) -> Image.Image:
    """Returns the picture at a file, http or https uri: upright RGB, transparency over white.

    It may be reduced while it is decoded, to no less than ``max_side_px``. ``timeout_s`` bounds the
    whole fetch. Raises PictureError if it cannot be had or is no picture.
    """
    try:
        content = _read(uri, time.monotonic() + timeout_s)
        with Image.open(BytesIO(content), formats=_FORMATS) as picture:
            picture.draft("RGB", (max_side_px, max_side_px))
            return _over_white(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise PictureError("not a picture") from error
    except HTTPError as error:
        raise PictureError(f"HTTP status {error.code}") from error
    except OSError as error:
        # A URLError wraps the OSError that says more.
        cause = getattr(error, "reason", error)
        raise PictureError(getattr(cause, "strerror", None) or str(cause)) from error
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # as Pillow has it
        raise PictureError(str(error)) from error


def _read(uri: str, deadline_s: float) -> bytes:
    match urlsplit(uri).scheme:
        case "file":
            return _read_file(Path(url2pathname(urlsplit(uri).path)))
        case "http" | "https":
            return _fetch(uri, deadline_s)
        case _:
            raise PictureError("not a file, http or https uri")


def _read_file(path: Path) -> bytes:
    # Whoever stored the image chose the path: it may name a pipe, or a file without an end.
    if path.exists() and not path.is_file():
        raise PictureError("not a file")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise PictureError("too large")
    return content


def _fetch(url: str, deadline_s: float) -> bytes:
    request = Request(url, headers={"User-Agent": "clipsearch"})
    content = bytearray()
    with urlopen(request, timeout=deadline_s - time.monotonic()) as response:
        # The timeout of urlopen is a socket's, which a trickle never reaches: hence the deadline.
        while chunk := response.read1(_CHUNK_BYTES):
            content += chunk
            if len(content) > _MAX_BYTES:
                raise PictureError("too large")
            if time.monotonic() > deadline_s:
                raise PictureError("too slow")
    return bytes(content)


def _over_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
