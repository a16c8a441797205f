"""Images as strangers send them: mutated, cut off, lying, exploding. The same ones every time."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

MUTANTS_OF_EACH = 70

# What a server may say of each file, besides that it is fine.
REASONS = {
    "IMAGE_FORMAT_UNSUPPORTED",
    "IMAGE_UNDECODABLE",
    "IMAGE_TOO_LARGE",
    "IMAGE_TOO_COMPLEX",
    "IMAGE_DECODE_FAILED",
}


def all_files() -> Iterator[tuple[str, bytes]]:
    """Yields names and contents: more than 3,000."""
    for name, content in valid_images().items():
        yield f"{name}: valid", content
        yield from _mutants(name, content)
        yield from _cut_off(name, content)
    for name, (content, _) in bombs().items():
        yield name, content
    yield from other_content().items()


def valid_images() -> dict[str, bytes]:
    """Returns a small image of each kind that the decoders know."""
    y, x = np.mgrid[0:30, 0:40]
    rgb = Image.fromarray(np.stack([x * 6, y * 8, x * y % 256], -1).astype(np.uint8))
    grey, palette, alpha = rgb.convert("L"), rgb.quantize(32), rgb.convert("RGBA")
    alpha.putalpha(grey)
    frames = [rgb.rotate(90 * turn) for turn in range(1, 4)]
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "JPEG": _encode(rgb, "JPEG", exif=exif, comment=b"hello", icc_profile=b"profile" * 9),
        "JPEG progressive": _encode(rgb, "JPEG", progressive=True, subsampling=0),
        "JPEG grey": _encode(grey, "JPEG", optimize=True, restart_marker_rows=1),
        "JPEG CMYK": _encode(rgb.convert("CMYK"), "JPEG"),
        "MPO": _encode(rgb, "MPO", save_all=True, append_images=frames),
        "PNG": _encode(rgb, "PNG", exif=exif, icc_profile=b"profile" * 9),
        "PNG palette": _encode(palette, "PNG", transparency=3),
        "PNG alpha": _encode(alpha, "PNG"),
        "PNG grey alpha": _encode(alpha.convert("LA"), "PNG"),
        "PNG 16 bit": _encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "PNG 1 bit": _encode(grey.convert("1"), "PNG"),
        "APNG": _encode(rgb, "PNG", save_all=True, append_images=frames),
        "GIF": _encode(palette, "GIF", comment=b"hello", transparency=2),
        "GIF interlaced": _encode(grey, "GIF", interlace=1),
        "GIF animated": _encode(rgb, "GIF", save_all=True, append_images=frames, loop=0),
        "WEBP": _encode(rgb, "WEBP", exif=exif),
        "WEBP lossless": _encode(rgb, "WEBP", lossless=True),
        "WEBP alpha": _encode(alpha, "WEBP"),
        "WEBP animated": _encode(rgb, "WEBP", save_all=True, append_images=frames),
    }


@cache
def bombs() -> dict[str, tuple[bytes, str]]:
    """Returns small files that cost much, each with the reason for which it is refused, or "".

    Of those that are IMAGE_DECODE_FAILED, decoding takes some seconds.
    """
    return {
        "pixels, PNG": (png(_header(13_000, 13_000), _data(bytes(1000))), "IMAGE_TOO_LARGE"),
        "pixels, GIF": (_gif(65_535, 65_535), "IMAGE_TOO_LARGE"),
        "pixels, GIF frame": (_gif(65_535, 65_535, canvas=(1, 1)), "IMAGE_TOO_LARGE"),
        "pixels, WEBP": (_webp_canvas(16_383), "IMAGE_TOO_LARGE"),
        "pixels, JPEG": (_jpeg_of_size(65_535, 65_535), "IMAGE_TOO_LARGE"),
        "scans": (_scans(2_000), "IMAGE_TOO_COMPLEX"),
        "scans as many as are taken, of many pixels": (_scans(90, 7_000), "IMAGE_DECODE_FAILED"),
        "pixels as many as are taken": (
            png(_header(7_000, 7_000), _data(bytes(7_000 * 21_001))),
            "",
        ),
        "chunks, PNG": (
            png(_header(8, 8), chunk(b"tEXt", b"") * 100_000, _data(bytes(200))),
            "IMAGE_TOO_COMPLEX",
        ),
        "segments, JPEG": (_with_segments(b"\xff\xfe\0\2" * 300_000), "IMAGE_TOO_COMPLEX"),
        "EXIF segments": (_with_segments(b"\xff\xe1\0\x08Exif\0\0" * 1000), "IMAGE_TOO_COMPLEX"),
        "stray bytes, JPEG": (
            _with_segments(b"\xff\xfe\0\2" + bytes(1_000_000)),
            "IMAGE_TOO_COMPLEX",
        ),
        "extensions, GIF": (_gif(8, 8, extensions=b"!\xfe\0" * 300_000), "IMAGE_TOO_COMPLEX"),
        "zTXt": (_png_with(b"zTXt", b"Comment\0\0" + _inflated(64)), ""),
        "iTXt": (_png_with(b"iTXt", b"Comment\0\1\0\0\0" + _inflated(64)), ""),
        "iCCP": (_png_with(b"iCCP", b"profile\0\0" + _inflated(64)), ""),
        "data beyond the picture, PNG": (png(_header(8, 8), _data(bytes(64 * 2**20))), ""),
        "ICC segments": (_with_segments(_icc_segments()), ""),
        "EXIF tags": (_with_exif(_exif_tags(5_000)), ""),
        "EXIF loop": (_with_exif(b"MM\0*\0\0\0\x08" + bytes(2) + b"\0\0\0\x08"), ""),
        "frames, GIF": (animation("GIF", 2_000), ""),
        "frames, PNG": (animation("PNG", 2_000), ""),
        "frames, WEBP": (animation("WEBP", 2_000), ""),
        "a row, PNG": (_encode(Image.new("L", (65_000, 1)), "PNG"), ""),
        "header larger than the data, PNG": (
            png(_header(4_000, 4_000), _data(bytes(4_000))),
            "IMAGE_UNDECODABLE",
        ),
        "header larger than the data, GIF": (_gif(4_000, 4_000), "IMAGE_UNDECODABLE"),
        "no size, PNG": (png(_header(0, 0), _data(b"")), "IMAGE_UNDECODABLE"),
        "no size, JPEG": (_jpeg_of_size(0, 0), "IMAGE_UNDECODABLE"),
    }


def other_content() -> dict[str, bytes]:
    """Returns what is no image of ours."""
    picture = Image.new("RGB", (16, 16), "teal")
    others = {kind: _encode(picture, kind) for kind in ("TIFF", "BMP", "PDF", "EPS", "ICO", "TGA")}
    signatures = {
        "JPEG": b"\xff\xd8\xff",
        "PNG": b"\x89PNG\r\n\x1a\n",
        "GIF": b"GIF89a",
        "WEBP": b"RIFF\x10\0\0\0WEBP",
    }
    return (
        others
        | {f"only the signature, {kind}": start for kind, start in signatures.items()}
        | {f"{kind}, then noise": start + _noise(2_000) for kind, start in signatures.items()}
        | {f"{kind}, then HTML": start + b"<html></html>" for kind, start in signatures.items()}
        | {
            "empty": b"",
            "a byte": b"\xff",
            "noise": _noise(10_000),
            "zeros": bytes(100_000),
            "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
            "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
            "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(40),
            "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
            "ZIP": b"PK\x03\x04" + bytes(100),
            "WAVE": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
        }
    )


def animation(image_format: str, frame_count: int) -> bytes:
    """Returns an animation of small frames, the first red, all others different from the last."""
    frames = [Image.new("RGB", (16, 16), "red")]
    frames += [Image.new("RGB", (16, 16), (0, n % 250, n // 250)) for n in range(1, frame_count)]
    options = {"lossless": True, "method": 0} if image_format == "WEBP" else {}
    return _encode(
        frames[0], image_format, save_all=True, append_images=frames[1:], duration=20, **options
    )


def chunk(name: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes) -> bytes:
    """Returns a PNG of these chunks and an end."""
    return b"".join((b"\x89PNG\r\n\x1a\n", *chunks, chunk(b"IEND", b"")))


def _mutants(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    for number in range(MUTANTS_OF_EACH):
        chance = random.Random(f"{name} {number}")
        mutant = bytearray(content)
        # Mostly in the headers, which decide how the rest is read.
        reach = len(mutant) if number % 2 else min(len(mutant), 200)
        for _ in range(chance.choice((1, 1, 2, 8))):
            position = chance.randrange(reach)
            match chance.randrange(5):
                case 0:
                    mutant[position] ^= 1 << chance.randrange(8)
                case 1:
                    mutant[position] = chance.choice((0, 1, 127, 128, 255))
                case 2:
                    mutant[position : position + 4] = b"\xff\xff\xff\xff"
                case 3:
                    mutant[position:position] = mutant[position : position + chance.randrange(40)]
                case 4:
                    del mutant[position : position + chance.randrange(1, 9)]
            reach = min(reach, len(mutant))
        yield f"{name}: mutant {number}", bytes(mutant)


def _cut_off(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Cuts an image off where its parts meet, a byte before, and a byte after."""
    places = {
        place + offset
        for start in _parts(content)
        for place in (start, start + 4, start + 8)
        for offset in (-1, 0, 1)
    }
    for place in sorted(places):
        if 0 < place < len(content):
            yield f"{name}: first {place} bytes", content[:place]


def _parts(content: bytes) -> Iterator[int]:
    """Yields where the segments, chunks or blocks of an image start."""
    if content.startswith(b"\x89PNG"):
        position = 8
        while position < len(content):
            yield position
            position += 12 + int.from_bytes(content[position : position + 4])
    elif content.startswith(b"RIFF"):
        position = 12
        while position < len(content):
            yield position
            size = int.from_bytes(content[position + 4 : position + 8], "little")
            position += 8 + size + size % 2
    elif content.startswith(b"GIF"):
        yield from (place for place, byte in enumerate(content) if byte in b"!,;")
    else:
        yield from (place for place, byte in enumerate(content) if byte == 0xFF)


def _encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def _header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _data(rows: bytes) -> bytes:
    return chunk(b"IDAT", zlib.compress(rows, 9))


def _png_with(name: bytes, data: bytes) -> bytes:
    return png(_header(8, 8), chunk(name, data), _data(bytes(8 * 25)))


def _inflated(mib: int) -> bytes:
    return zlib.compress(bytes(mib * 2**20), 9)


def _gif(
    width: int, height: int, *, canvas: tuple[int, int] | None = None, extensions: bytes = b""
) -> bytes:
    screen = struct.pack("<HH", *(canvas or (width, height))) + b"\x80\0\0" + bytes(6)
    frame = b",\0\0\0\0" + struct.pack("<HH", width, height) + b"\0\x02\x02L\x01\0;"
    return b"GIF89a" + screen + extensions + frame


def _webp_canvas(side: int) -> bytes:
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + 2 * (side - 1).to_bytes(3, "little")


def _jpeg_of_size(width: int, height: int) -> bytes:
    small = _encode(Image.new("L", (8, 8)), "JPEG")
    return small.replace(b"\0\x08\0\x08\x01", struct.pack(">HH", height, width) + b"\x01")


def _scans(count: int, side: int = 64) -> bytes:
    jpeg = _encode(Image.new("RGB", (side, side), "teal"), "JPEG", progressive=True)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last_scan * count + jpeg[-2:]


def _with_segments(segments: bytes) -> bytes:
    jpeg = _encode(Image.new("RGB", (16, 16), "teal"), "JPEG")
    return jpeg[:2] + segments + jpeg[2:]


def _icc_segments() -> bytes:
    body = b"ICC_PROFILE\0\1\xff" + bytes(60_000)
    return (b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body) * 60


def _with_exif(tiff: bytes) -> bytes:
    body = b"Exif\0\0" + tiff
    return _with_segments(b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body)


def _exif_tags(count: int) -> bytes:
    tags = b"".join(struct.pack(">HHII", n, 2, 4, 0x41424344) for n in range(1, count + 1))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", count) + tags + bytes(4)


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)
