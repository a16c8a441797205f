"""Which formats are images here, told by their first bytes; and what else people send instead."""

from __future__ import annotations

import re

from clipsearch_server.errors import InvalidImage

# Signature -> media type. Each format has a decoder that becomes part of what we must trust.
_IMAGES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
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


def recognise(content: bytes) -> str:
    """Returns the media type. Raises InvalidImage (IMAGE_FORMAT_UNSUPPORTED) if it is none of
    ours, saying what it looks like."""
    for signature, media_type in _IMAGES:
        if signature.match(content):
            return media_type
    raise InvalidImage(
        f"the content is {_describe(content)}; images may be JPEG, PNG, WEBP or GIF",
        reason="IMAGE_FORMAT_UNSUPPORTED",
    )


def name(media_type: str) -> str:
    """What people call a format: "JPEG"."""
    return media_type.removeprefix("image/").upper()


def _describe(content: bytes) -> str:
    if not content:
        return "empty"
    beginning = content[:_SNIFFED_BYTES]
    for signature, other in _OTHER_FORMATS:
        if signature.match(beginning):
            return f"{other}, not an image we take"
    return "not an image of a known format"
