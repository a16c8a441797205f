"""Encoded image -> checked, upright RGB -> uint8 pixels of the model's size.

Everything here takes and returns plain values and keeps no state, so that it can run in threads
or in other processes. The content is whatever a stranger sent: only four decoders can ever be
reached, and each bound is checked before the work that it bounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from clipsearch_server.complexity import check_complexity
from clipsearch_server.errors import InvalidImage

# An image longer than this many times its shorter side is cropped before it is resized.
_MAX_RESIZED_ASPECT = 8

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Signature -> media type and decoder. Of a JPEG of several pictures (MPO, from phones) this is the
# first one.
_DECODERS: tuple[tuple[re.Pattern[bytes], str, type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", WebPImageFile),
    (re.compile(rb"GIF8[79]a"), "image/gif", GifImageFile),
)

# What people send instead, so that the message can say so.
_OTHER_FORMATS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\s*<(.*<)?(!doctype html|html|head|body)", re.I | re.S), "HTML"),
    (re.compile(rb"\s*<(.*<)?svg", re.I | re.S), "SVG"),
    (re.compile(rb".{4}ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"8BPS"), "PSD"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"[\t\n\r\x20-\x7e]+\Z"), "text"),
)
_SNIFFED_BYTES = 512

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


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as the vision encoder takes it, and what its content says about it."""

    pixels: NDArray[np.uint8]  # (3, size_px, size_px): RGB, upright
    media_type: str  # "image/jpeg", "image/png", "image/webp" or "image/gif"
    width_px: int  # of the whole image, upright
    height_px: int


def decode_image(
    content: bytes, *, size_px: int, resize_px: int, resample: str, max_pixels: int
) -> DecodedImage:
    """Decodes an image and reduces it to a model's size.

    The shorter side is resized to ``resize_px`` with the filter ``resample`` ("bilinear", "bicubic"
    or "lanczos"), and the centre of ``size_px`` squared is cropped: for opaque images the very
    pixels that transformers' ``CLIPImageProcessorPil`` computes, unless one side is more than eight
    times the other. Transparent images are laid over white, animations are their first frame,
    16-bit grey is scaled to 8 bits.

    Raises InvalidImage: IMAGE_FORMAT_UNSUPPORTED if the content is not JPEG, PNG, WEBP or GIF,
    IMAGE_TOO_LARGE if it has more than ``max_pixels`` pixels, IMAGE_TOO_COMPLEX if decoding it
    would take unduly long, IMAGE_UNDECODABLE if it is broken or incomplete.
    """
    filter_ = _RESAMPLING[resample]
    media_type, decoder = _recognise(content)
    check_complexity(content, media_type)
    # For some formats Pillow allocates while it reads the header, and asks this global first. Our
    # own check below is the one that counts.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = decoder(BytesIO(content))
        _check_pixels(image.size, max_pixels)
        image.load()
        upright = _upright(image, _flatten(image))
        width_px, height_px = upright.size
        pixels = _to_pixels(_resize_and_crop(upright, size_px, resize_px, filter_))
    except InvalidImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(max_pixels) from error
    except Exception as error:
        # On broken bytes Pillow raises nearly anything: OSError, ValueError, SyntaxError,
        # struct.error, IndexError, EOFError, ... Whatever it is, the content caused it.
        raise InvalidImage(
            f"the {_name(media_type)} image is broken or incomplete and cannot be decoded",
            reason="IMAGE_UNDECODABLE",
            media_type=media_type,
        ) from error
    return DecodedImage(pixels, media_type, width_px, height_px)


def _recognise(content: bytes) -> tuple[str, type[ImageFile.ImageFile]]:
    for signature, media_type, decoder in _DECODERS:
        if signature.match(content):
            return media_type, decoder
    raise InvalidImage(
        f"the content is {_describe(content)}; images may be JPEG, PNG, WEBP or GIF",
        reason="IMAGE_FORMAT_UNSUPPORTED",
    )


def _describe(content: bytes) -> str:
    if not content:
        return "empty"
    beginning = content[:_SNIFFED_BYTES]
    for signature, name in _OTHER_FORMATS:
        if signature.match(beginning):
            return f"{name}, not an image we take"
    return "not an image of a known format"


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise _too_large(max_pixels)


def _too_large(max_pixels: int) -> InvalidImage:
    return InvalidImage(
        f"the image has more than {max_pixels:,} pixels, the limit here",
        reason="IMAGE_TOO_LARGE",
        max_image_pixels=str(max_pixels),
    )


def _flatten(image: Image.Image) -> Image.Image:
    """Returns the image in mode RGB, or L (a third of the work) where all channels are equal."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and so turns nearly every value white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _upright(image: Image.Image, flat: Image.Image) -> Image.Image:
    """Returns the flattened image turned by the original's EXIF orientation."""
    try:
        transpose = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Broken EXIF, of which cameras and editors write plenty, is no reason to refuse good
        # pixels; the parser raises as freely on it as the decoders do.
        return flat
    return flat if transpose is None else flat.transpose(transpose)


def _resize_and_crop(
    image: Image.Image, size_px: int, resize_px: int, resample: Image.Resampling
) -> Image.Image:
    """Resizes the shorter side to resize_px and crops the centre of size_px squared, padded with
    black where the image is smaller. Roundings are those of transformers' image_transforms.py
    (`get_resize_output_image_size`, `center_crop`)."""
    width, height = image.size
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


def _name(media_type: str) -> str:
    return media_type.removeprefix("image/").upper()
