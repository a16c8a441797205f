"""Images are decoded as people see them, to the reference processor's pixels, or refused."""

from __future__ import annotations

import hashlib
import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clipsearch_server.errors import InvalidImage
from clipsearch_server.image import decode_image
from clipsearch_server.ports import DecodedImage

MAX_PIXELS = 4_000_000
ORIENTATION = 0x0112
UNTRUSTED_FORMATS = ["JPEG", "PNG", "WEBP", "GIF"]


def picture(width: int, height: int) -> Image.Image:
    """Returns an RGB picture without symmetries, with smooth and with sharp parts."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), x * y * 7 % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def decode(
    content: bytes, *, size_px: int = 32, resize_px: int = 32, resample: str = "bicubic"
) -> DecodedImage:
    return decode_image(
        content, size_px=size_px, resize_px=resize_px, resample=resample, max_pixels=MAX_PIXELS
    )


def refusal(content: bytes) -> InvalidImage:
    with pytest.raises(InvalidImage) as caught:
        decode(content)
    return caught.value


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes, rows: bytes) -> bytes:
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            *chunks,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        )
    )


# SHA-256 of the pixels that transformers 5.23 with Pillow 13 computes (CLIPImageProcessorPil,
# do_rescale and do_normalize off) for picture(width, height): pinned where it is not installed.
REFERENCE = [
    # width, height, resize_px, size_px, resample
    (
        640,
        480,
        224,
        224,
        "bicubic",
        "2a687731fe4d5cf28a85c07b526018f5b4b7ee15d35732ca1d98bc504eb23d28",
    ),
    (
        481,
        333,
        224,
        224,
        "bicubic",
        "2252520abce3f2af6c71955bcea66d2900e3c15a773d1a672c92666f27943021",
    ),
    (
        333,
        481,
        224,
        224,
        "bicubic",
        "753aa1545e31688918a4332a0c660a5266d50f48f35599e542717a697685f525",
    ),
    (
        17,
        100,
        64,
        64,
        "bicubic",
        "ded99d743c5a5d64cf6cbd6fc7633b259fc31b38de97bb4198fa878d7feed9c1",
    ),
    (
        100,
        100,
        64,
        64,
        "bilinear",
        "bce2be7982fc3f71ac3714311e7d090cc6c8612696b44b8511397e3f7dad7e17",
    ),
    (
        301,
        200,
        37,
        32,
        "lanczos",
        "0371b89900a307155ef02c4f364fe4bdde08de33b354173f7115389a4d1bb7fc",
    ),
    (31, 47, 25, 32, "bicubic", "518fdae6456371d4a14cb46a81cf464a7235261f2b265be8b4a12908d48cb8ae"),
    (1, 1, 32, 32, "bicubic", "e80232b4d18d0bb7e794be263ba937626f383f9917d4b8a737ba893a8f752293"),
]


@pytest.mark.parametrize(
    ("width", "height", "resize_px", "size_px", "resample", "sha256"), REFERENCE
)
def test_pixels_are_those_of_the_reference(
    width: int, height: int, resize_px: int, size_px: int, resample: str, sha256: str
) -> None:
    image = decode(
        encode(picture(width, height)), size_px=size_px, resize_px=resize_px, resample=resample
    )
    assert image.pixels.shape == (3, size_px, size_px)
    assert image.pixels.dtype == np.uint8
    assert hashlib.sha256(image.pixels.tobytes()).hexdigest() == sha256


@pytest.mark.parametrize("image_format", UNTRUSTED_FORMATS)
@pytest.mark.parametrize("size", [(640, 480), (99, 250), (7, 5)])
def test_pixels_are_those_of_transformers(image_format: str, size: tuple[int, int]) -> None:
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = clip.CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    content = encode(picture(*size), image_format)
    expected = processor(Image.open(BytesIO(content)))["pixel_values"][0]
    image = decode(content, size_px=224, resize_px=224)
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize("image_format", UNTRUSTED_FORMATS)
def test_says_what_the_image_is(image_format: str) -> None:
    image = decode(encode(picture(50, 30), image_format))
    assert image.media_type == f"image/{image_format.lower()}"
    assert (image.width_px, image.height_px) == (50, 30)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_every_colour_mode_is_seen_as_rgb(mode: str) -> None:
    content = encode(picture(90, 60).convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    expected = decode(encode(Image.open(BytesIO(content)).convert("RGB")))
    np.testing.assert_array_equal(decode(content).pixels, expected.pixels)


def test_first_picture_of_a_phone_photo() -> None:
    photo = encode(
        picture(90, 60), "MPO", save_all=True, append_images=[Image.new("RGB", (90, 60))]
    )
    image = decode(photo)
    assert image.media_type == "image/jpeg"
    np.testing.assert_array_equal(image.pixels, decode(encode(picture(90, 60), "JPEG")).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encode(picture(90, 60), image_format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    image = decode(content)
    np.testing.assert_array_equal(image.pixels, decode(encode(upright)).pixels)
    assert (image.width_px, image.height_px) == upright.size


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"garbage",
        b"Exif\0\0MM\0\x2a\xff\xff\xff\xff",
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",  # 9
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02x\0\0\0\0\0\0\0",  # "x"
        b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12",
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, and it goes on
def test_broken_exif_means_no_rotation(exif: bytes) -> None:
    plain = encode(picture(90, 60), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    image = decode(plain[:2] + segment + plain[2:])
    np.testing.assert_array_equal(image.pixels, decode(plain).pixels)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encode(Image.new("RGBA", (40, 40), (200, 10, 10, 0))), id="RGBA"),
        pytest.param(encode(Image.new("RGBA", (40, 40), (9, 9, 9, 0)), "WEBP"), id="WEBP"),
        pytest.param(encode(Image.new("LA", (40, 40), (10, 0))), id="LA"),
        pytest.param(encode(Image.new("L", (40, 40), 10), transparency=10), id="L + tRNS"),
        pytest.param(encode(Image.new("1", (40, 40), 0), transparency=0), id="1 + tRNS"),
        pytest.param(
            encode(Image.new("RGB", (40, 40), "red"), transparency=(255, 0, 0)), id="RGB + tRNS"
        ),
        pytest.param(encode(Image.new("P", (40, 40), 0), transparency=0), id="P + tRNS"),
        pytest.param(encode(Image.new("P", (40, 40), 0), transparency=b"\0\xff"), id="P + alphas"),
        pytest.param(encode(Image.new("P", (40, 40), 1), "GIF", transparency=1), id="GIF"),
    ],
)
def test_transparency_is_white(content: bytes) -> None:
    assert (decode(content).pixels == 255).all()


def test_half_transparency_is_half_white() -> None:
    pixels = decode(encode(Image.new("RGBA", (40, 40), (0, 100, 200, 128)))).pixels
    np.testing.assert_allclose(pixels[:, 0, 0], [127, 177, 227], atol=1)


@pytest.mark.parametrize("value", [0, 255, 300, 30_000, 65_535])
def test_16_bit_grey_is_scaled_and_not_clipped(value: int) -> None:
    row = b"\0" + struct.pack(">H", value) * 4
    pixels = decode(png(4, 4, 16, 0, rows=row * 4)).pixels
    assert (pixels == value >> 8).all()


def test_16_bit_colour_with_a_transparent_colour_decodes() -> None:
    row = b"\0" + struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC) * 4
    transparency = png_chunk(b"tRNS", struct.pack(">HHH", 0xFFFF, 0xFFFF, 0xFFFF))
    pixels = decode(png(4, 4, 16, 2, transparency, rows=row * 4)).pixels
    np.testing.assert_array_equal(pixels[:, 0, 0], [0x12, 0x56, 0x9A])


@pytest.mark.parametrize("name", [b"eXIf", b"tRNS"])
def test_a_png_without_what_is_damaged_beside_its_picture(name: bytes) -> None:
    chunk = bytearray(png_chunk(name, struct.pack(">HHH", 1, 2, 3)))
    chunk[8] ^= 1
    pixels = decode(png(4, 4, 8, 2, bytes(chunk), rows=(b"\0" + bytes([9] * 12)) * 4)).pixels
    assert (pixels == 9).all()


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(content).pixels[:, 16, 16], [255, 0, 0])


def whole_then_cropped(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Returns the reference's pixels by resizing all of the image."""
    short, long = sorted(image.size)
    length = int(size_px * long / short)
    wide = image.width > image.height
    whole = image.resize((length, size_px) if wide else (size_px, length), Image.Resampling.BICUBIC)
    start = (length - size_px) // 2
    box = (start, 0, start + size_px, size_px) if wide else (0, start, size_px, start + size_px)
    return np.asarray(whole.crop(box)).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(3, 401), (401, 3), (13, 500), (200, 9_000), (9_000, 200)])
def test_long_images_get_the_pixels_of_the_reference(size: tuple[int, int]) -> None:
    pixels = decode(encode(picture(*size)), size_px=64, resize_px=64).pixels
    expected = whole_then_cropped(picture(*size), 64)
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.mean() < 0.3


@pytest.mark.by_the_clock
@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
def test_extreme_aspect_ratios_do_not_explode(size: tuple[int, int]) -> None:
    content = encode(picture(*size))
    started = time.perf_counter()
    decode(content, size_px=224, resize_px=224)
    assert time.perf_counter() - started < 1  # 224 x 6,720,000 pixels would take far longer


BOMBS = {
    "PNG": png(30_000, 30_000, 8, 2, rows=bytes(1000)),
    "GIF": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b"!\xf9\x04\x08\0\0\0\0"
    b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    "GIF frame beyond canvas": b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + b"!\xf9\x04\x08\0\0\0\0"
    b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    "WEBP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0",
    "JPEG": encode(Image.new("L", (8, 8)), "JPEG").replace(
        b"\0\x08\0\x08\x01", b"\xff\xff\xff\xff\1"
    ),
}


@pytest.mark.by_the_clock
@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
def test_too_many_pixels_are_refused_before_decoding(content: bytes) -> None:
    durations_s = []
    for _ in range(3):  # the fastest counts: a busy machine may interrupt
        started = time.perf_counter()
        error = refusal(content)
        durations_s.append(time.perf_counter() - started)
    assert min(durations_s) < 0.05
    assert error.reason == "IMAGE_TOO_LARGE"
    assert error.metadata["max_image_pixels"] == str(MAX_PIXELS)


def test_the_pixel_limit_is_exact() -> None:
    content = encode(Image.new("L", (100, 101)))

    def decode_within(max_pixels: int) -> DecodedImage:
        return decode_image(
            content, size_px=8, resize_px=8, resample="bicubic", max_pixels=max_pixels
        )

    assert decode_within(10_100).height_px == 101
    with pytest.raises(InvalidImage, match="10,099 pixels"):
        decode_within(10_099)


@pytest.mark.parametrize("image_format", UNTRUSTED_FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images_are_refused(image_format: str, share: float) -> None:
    content = encode(picture(200, 150), image_format)
    error = refusal(content[: int(len(content) * share)])
    assert error.reason == "IMAGE_UNDECODABLE"
    assert image_format in error.message


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "empty"),
        (b"just some words\n", "text"),
        (b"\n<!DOCTYPE html><html></html>", "HTML"),
        (b"<!-- no --><HTML>", "HTML"),
        (b"<!---->" * 200, "text"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (encode(picture(4, 4), "TIFF"), "TIFF"),
        (encode(picture(4, 4), "BMP"), "BMP"),
        (encode(picture(4, 4), "PDF"), "PDF"),
        (encode(picture(16, 16), "AVIF"), "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "text"),
        (b"\x00\x01\x02\x03", "not an image of a known format"),
        (b"RIFF\x04\0\0\0WAVE", "not an image of a known format"),
    ],
)
def test_other_content_is_refused_by_name(content: bytes, name: str) -> None:
    error = refusal(content)
    assert error.reason == "IMAGE_FORMAT_UNSUPPORTED"
    assert f"the content is {name}" in error.message
    assert "JPEG, PNG, WEBP or GIF" in error.message


def test_unduly_complex_images_are_refused() -> None:
    jpeg = encode(picture(64, 64), "JPEG", progressive=True)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    assert refusal(jpeg[:-2] + last_scan * 200).reason == "IMAGE_TOO_COMPLEX"


SEEDS = {
    image_format: [
        encode(picture(24, 18), image_format),
        encode(picture(24, 18).convert("L"), image_format),
        encode(picture(24, 18), image_format, exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\0"),
    ]
    for image_format in UNTRUSTED_FORMATS
}


@pytest.mark.parametrize("image_format", UNTRUSTED_FORMATS)
@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_mutated_images_are_decoded_or_refused(image_format: str, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[image_format])))
    positions = st.integers(0, len(content) - 1)
    for position, value in data.draw(
        st.lists(st.tuples(positions, st.integers(0, 255)), max_size=6)
    ):
        content[position] = value
    del content[data.draw(st.integers(0, len(content))) :]
    with suppress(InvalidImage):
        assert decode(bytes(content)).pixels.shape == (3, 32, 32)


@given(content=st.sampled_from(SEEDS["PNG"] + SEEDS["GIF"]), tail=st.binary(max_size=64))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_what_follows_an_image_is_ignored(content: bytes, tail: bytes) -> None:
    np.testing.assert_array_equal(decode(content + tail).pixels, decode(content).pixels)
