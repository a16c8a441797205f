"""Images whose structure is a denial of service are refused before a decoder sees them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from clipsearch_server.complexity import check_complexity
from clipsearch_server.errors import InvalidImage


def encode(image_format: str, **options: object) -> bytes:
    file = BytesIO()
    Image.effect_noise((64, 48), 40).convert("RGB").save(file, image_format, **options)
    return file.getvalue()


def with_scans(count: int) -> bytes:
    """Returns a progressive JPEG whose last scan is repeated up to a number of scans."""
    jpeg = encode("JPEG", progressive=True)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last_scan * (count - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def png_chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def assert_too_complex(content: bytes, media_type: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        check_complexity(content, media_type)
    assert caught.value.reason == "IMAGE_TOO_COMPLEX"
    assert caught.value.field == "content"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_ordinary_images_pass(image_format: str) -> None:
    check_complexity(encode(image_format), f"image/{image_format.lower()}")


def test_scans_are_bounded() -> None:
    check_complexity(with_scans(100), "image/jpeg")
    assert_too_complex(with_scans(101), "image/jpeg")


def test_only_scans_of_the_first_image_count() -> None:
    film = b"\xff\xda\x00\x02" * 500
    check_complexity(encode("JPEG") + film, "image/jpeg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(film) + 2) + film
    jpeg = encode("JPEG")
    check_complexity(jpeg[:2] + thumbnail + jpeg[2:], "image/jpeg")


def test_what_is_appended_to_an_image_does_not_count() -> None:
    for image_format in ("JPEG", "PNG", "GIF"):
        check_complexity(encode(image_format) + bytes(1_000_000), f"image/{image_format.lower()}")


def test_fill_bytes_before_a_marker_do_not_hide_a_scan() -> None:
    assert_too_complex(b"\xff\xd8" + b"\xff\xff\xff\xda\x00\x02data" * 101, "image/jpeg")


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        pytest.param(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 50_000, "image/jpeg", id="segments"),
        pytest.param(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 50_000, "image/jpeg", id="no length"),
        pytest.param(b"\xff\xd8" + b"\x00" * 50_000, "image/jpeg", id="stray bytes in a JPEG"),
        pytest.param(b"\xff\xd8\xff\xd9" + b"\x00" * 50_000, "image/jpeg", id="after an early end"),
        pytest.param(b"\xff\xd8\xff\xd8\xff\xff" + b"\x00" * 50_000, "image/jpeg", id="after SOI"),
        pytest.param(encode("PNG")[:33] + png_chunk(b"teSt") * 50_000, "image/png", id="chunks"),
        pytest.param(
            encode("GIF")[:13] + b"\x21\xfe" + b"\x01a" * 50_000, "image/gif", id="blocks"
        ),
        pytest.param(encode("GIF")[:13] + b"\x01" * 50_000, "image/gif", id="stray bytes in a GIF"),
    ],
)
def test_parts_are_bounded(content: bytes, media_type: str) -> None:
    assert_too_complex(content, media_type)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF"])
def test_a_broken_structure_is_left_to_the_decoder(image_format: str) -> None:
    content = encode(image_format)
    for end in range(len(content)):
        check_complexity(content[:end], f"image/{image_format.lower()}")


def test_exif_segments_are_bounded() -> None:
    jpeg = encode("JPEG")
    exif = b"\xff\xe1\x00\x0cExif\0\0abcd"
    other = b"\xff\xe1\x00\x0cHttp://abc"
    check_complexity(jpeg[:2] + exif * 64 + other * 200 + jpeg[2:], "image/jpeg")
    assert_too_complex(jpeg[:2] + exif * 65 + jpeg[2:], "image/jpeg")
