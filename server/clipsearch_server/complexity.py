"""Refuses images that would take unduly long to decode, though they are small and legal.

No limit on bytes or pixels catches them: 25 megapixels in 130 kB of progressive JPEG take 10 s with
500 scans, and 16 MB of empty JPEG segments or PNG chunks keep the decoder's parser busy as long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import repeat

from clipsearch_server.errors import InvalidImage

# Each scan of a progressive JPEG costs a pass over all pixels. Of 558 files from public test
# corpora none had more than 11.
_MAX_JPEG_SCANS = 100

# Segments, chunks, blocks or stray bytes. Encoders write about one for each 8 kB.
_MAX_PARTS = 20_000

# Pillow joins the EXIF segments of a JPEG one by one, in time by the square of their number.
# Cameras write one, and programs that cut a long one up a few.
_MAX_EXIF_SEGMENTS = 64

_SCAN = 0xDA  # JPEG's SOS marker
_APP1 = 0xE1
_EXIF_HEADER = b"Exif\0\0"
_EXIF = 0x100  # our own code for an APP1 segment that holds EXIF

# The JPEG markers that a length follows, as Pillow's header parser knows them; to it, anything else
# is stray bytes. Only among the scans does EOI end the image.
_JPEG_SEGMENT = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xda-\xef\xfe])")
_JPEG_SEGMENT_OR_EOI = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe])")
_JPEG_EOI = 0xD9

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B


def check_complexity(content: bytes, media_type: str) -> None:
    """Raises InvalidImage (IMAGE_TOO_COMPLEX) if an image has too many scans or too many parts.

    Looks at the structure only, which may be broken: what it cannot follow is left to the decoder.
    """
    read_parts = _READERS.get(media_type)
    if read_parts is None:
        return
    scans = exif_segments = 0
    for count, part in enumerate(read_parts(content), start=1):
        scans += part == _SCAN
        exif_segments += part == _EXIF
        if scans > _MAX_JPEG_SCANS or exif_segments > _MAX_EXIF_SEGMENTS or count > _MAX_PARTS:
            raise InvalidImage(
                "the image is stored in too many parts to be decoded in reasonable time; save it "
                "again with ordinary settings",
                reason="IMAGE_TOO_COMPLEX",
                media_type=media_type,
            )


def _read_jpeg(content: bytes) -> Iterator[int]:
    # Walks the segments to the end of the first image: to count bytes would count those of
    # thumbnails too, and of the film that phones append to a photo. Before the first scan stray
    # bytes count as parts, since Pillow reads them one by one.
    position = 2
    in_scans = False
    while position < len(content):
        pattern = _JPEG_SEGMENT_OR_EOI if in_scans else _JPEG_SEGMENT
        marker = pattern.search(content, position)
        if not in_scans:
            yield from repeat(0, (marker.start() if marker else len(content)) - position)
        if marker is None or marker[1][0] == _JPEG_EOI:
            return
        code = marker[1][0]
        is_exif = code == _APP1 and content.startswith(_EXIF_HEADER, marker.end() + 2)
        yield _EXIF if is_exif else code
        in_scans = in_scans or code == _SCAN
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])


def _read_png(content: bytes) -> Iterator[int]:
    position = 8
    while position < len(content) and content[position + 4 : position + 8] != b"IEND":
        yield 0
        position += 12 + int.from_bytes(content[position : position + 4])


def _read_gif(content: bytes) -> Iterator[int]:
    # Up to the first image: the rest is not looked at.
    flags = content[10] if len(content) > 10 else 0
    position = 13 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
    while position < len(content):
        introducer = content[position]
        if introducer in (_GIF_IMAGE, _GIF_TRAILER):
            return
        yield 0
        position += 1
        if introducer == _GIF_EXTENSION:
            position += 1
            while position < len(content) and (size := content[position]):
                yield 0
                position += 1 + size
            position += 1


_READERS: dict[str, Callable[[bytes], Iterator[int]]] = {
    "image/jpeg": _read_jpeg,
    "image/png": _read_png,
    "image/gif": _read_gif,
}
