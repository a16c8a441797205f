"""What of a PNG its picture comes from; everything else is left out before it is decoded.

Pillow refuses a picture for a colour profile, a text or a timestamp that is broken, and inflates
texts that nobody will read. As libpng and every browser do, we look past them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12  # of a chunk: length, name and checksum

# Besides the critical chunks, whose names start with a capital: transparency and orientation.
_ALSO_KEPT = (b"tRNS", b"eXIf")


def picture_only(content: bytes) -> bytes:
    """Returns the PNG without the chunks that do not make its picture: of an animation, its still
    image. A picture that is broken or cut off stays so, for the decoder to refuse."""
    return content[:_SIGNATURE_BYTES] + b"".join(_kept(memoryview(content)))


def _kept(content: memoryview) -> Iterator[memoryview]:
    position = start = _SIGNATURE_BYTES
    while position < len(content):
        chunk = bytes(content[position + 4 : position + 8])
        end = position + _FRAME_BYTES + int.from_bytes(content[position : position + 4])
        if chunk[:1].islower() and not (chunk in _ALSO_KEPT and _is_whole(content[position:end])):
            yield content[start:position]
            start = end
        position = end
        if chunk == b"IEND":
            break
    yield content[start:position]


def _is_whole(chunk: memoryview) -> bool:
    """Says whether a chunk's checksum is right."""
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
