"""Encoded image -> checked, upright RGB -> uint8 pixels of the model's size.

Everything here takes and returns plain values and keeps no state, so that it can run in other
processes. The content is whatever a stranger sent: only four decoders can ever be reached, and each
bound is checked before the work that it bounds. docs/images.md says what people see of it.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from clipsearch_server import formats
from clipsearch_server.complexity import check_complexity
from clipsearch_server.errors import InvalidImage
from clipsearch_server.png import picture_only
from clipsearch_server.ports import DecodedImage

# An image longer than this many times its shorter side is cropped before it is resized.
_MAX_RESIZED_ASPECT = 8

# A JPEG is decoded at a half, a quarter or an eighth of its size, as long as that is at least this
# many times the size it is resized to.
_DRAFT_FACTOR = 3

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Of a JPEG of several pictures (MPO, from phones) this decodes the first one.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "image/jpeg": JpegImageFile,
    "image/png": PngImageFile,
    "image/webp": WebPImageFile,
    "image/gif": GifImageFile,
}

# EXIF orientation -> what makes the image upright (Exif 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = range(5, 9)


def decode_image(
    content: bytes, *, size_px: int, resize_px: int, resample: str, max_pixels: int
) -> DecodedImage:
    """Decodes an image and reduces it to a model's size.

    The shorter side is resized to ``resize_px`` with the filter ``resample`` ("bilinear", "bicubic"
    or "lanczos"), and the centre of ``size_px`` squared is cropped: for opaque images the very
    pixels that transformers' ``CLIPImageProcessorPil`` computes, with two exceptions. A JPEG whose
    shorter side is at least six times ``resize_px`` is decoded at a fraction of its size, which
    leaves photographs within 50 dB (PSNR) of those pixels and a page of small print within 38. And
    where one side is more than eight times the other, only what the crop keeps is resized.

    Transparent images are laid over white, animations are their first frame, 16-bit grey is scaled
    to 8 bits, colour profiles are ignored.

    Raises InvalidImage: IMAGE_FORMAT_UNSUPPORTED if the content is not JPEG, PNG, WEBP or GIF,
    IMAGE_TOO_LARGE if it has more than ``max_pixels`` pixels, IMAGE_TOO_COMPLEX if decoding it
    would take unduly long, IMAGE_UNDECODABLE if it is broken or incomplete. Raises MemoryError if
    the process may not have the memory that it takes.
    """
    filter_ = _RESAMPLING[resample]
    media_type = formats.recognise(content)
    check_complexity(content, media_type)
    # For some formats Pillow allocates while it reads the header, and asks this global first. Our
    # own check below is the one that counts.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        if media_type == "image/png":
            content = picture_only(content)
        image = _DECODERS[media_type](BytesIO(content))
        width_px, height_px = image.size
        if width_px * height_px > max_pixels:
            raise _too_large(max_pixels)
        draft_px = _DRAFT_FACTOR * resize_px
        image.draft(None, (draft_px, draft_px))  # which only JPEG has
        image.load()
        flat = _flatten(image)
        orientation = _orientation(image)
        if orientation in _SWAPS_SIDES:
            width_px, height_px = height_px, width_px
        if orientation in _UPRIGHT:
            flat = flat.transpose(_UPRIGHT[orientation])
        pixels = _to_pixels(
            _resize_and_crop(flat, (width_px, height_px), size_px, resize_px, filter_)
        )
    except (InvalidImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(max_pixels) from error
    except Exception as error:
        # On broken bytes Pillow raises nearly anything: OSError, ValueError, SyntaxError,
        # struct.error, IndexError, EOFError, ... Whatever it is, the content caused it.
        raise InvalidImage(
            f"the {formats.name(media_type)} image is broken or incomplete and cannot be decoded",
            reason="IMAGE_UNDECODABLE",
            media_type=media_type,
        ) from error
    return DecodedImage(pixels, media_type, width_px, height_px)


def _too_large(max_pixels: int) -> InvalidImage:
    return InvalidImage(
        f"the image has more than {max_pixels:,} pixels, the limit here",
        reason="IMAGE_TOO_LARGE",
        max_image_pixels=str(max_pixels),
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Broken EXIF, of which cameras and editors write plenty, is no reason to refuse good
        # pixels; the parser raises as freely on it as the decoders do.
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """Returns the image in mode RGB, or L (a third of the work) where all channels are equal."""
    if image.mode == "I;16":
        return _flatten_16_bit(image)
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _flatten_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 and so turns nearly every value white.
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _resize_and_crop(
    image: Image.Image,
    full_size: tuple[int, int],
    size_px: int,
    resize_px: int,
    resample: Image.Resampling,
) -> Image.Image:
    """Resizes the shorter side to resize_px and crops the centre of size_px squared, padded with
    black where the image is smaller. Roundings are those of transformers' image_transforms.py
    (`get_resize_output_image_size`, `center_crop`) for the full size, of which the image may be a
    fraction."""
    width, height = full_size
    short, long = min(width, height), max(width, height)
    resized_long = int(resize_px * long / short)
    if resized_long > _MAX_RESIZED_ASPECT * max(resize_px, size_px):
        resized = _resize_middle(image, size_px, resize_px, resized_long, resample)
    else:
        resized = image.resize(
            (resize_px, resized_long) if width <= height else (resized_long, resize_px), resample
        )
    left, top = (resized.width - size_px) // 2, (resized.height - size_px) // 2
    return resized.crop((left, top, left + size_px, top + size_px))


def _resize_middle(
    image: Image.Image, size_px: int, resize_px: int, resized_long: int, resample: Image.Resampling
) -> Image.Image:
    """Resizes only what the crop will keep of a very long image: 1 x 30,000 pixels would become
    224 x 6,720,000. Values differ a little from those of the whole (0.2 in the mean of the worst
    picture tried), since Pillow rounds the box to float32 and may choose another order of passes.
    """
    scale = max(image.size) / resized_long
    start = (resized_long - size_px) // 2 * scale
    end = start + size_px * scale
    if image.width <= image.height:
        return image.resize((resize_px, size_px), resample, (0, start, image.width, end))
    return image.resize((size_px, resize_px), resample, (start, 0, end, image.height))


def _to_pixels(image: Image.Image) -> NDArray[np.uint8]:
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))
