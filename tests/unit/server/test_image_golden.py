"""What people see of an image of each kind, pixel by pixel. The expected pixels are written down or
computed here, never by the decoder's own library."""

from __future__ import annotations

import asyncio
import pickle
import random
import struct
import subprocess
import sys
import time
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw

from broken_images import animation, bombs, chunk, png, valid_images
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.image import decode_image
from clipsearch_server.model import open_model_folder
from clipsearch_server.png import picture_only
from clipsearch_server.ports import DecodedImage
from clipsearch_server.settings import DEMO_MODEL_DIR

SIDE = 64  # four quarters of 32 pixels, which JPEG's blocks of 8 and 16 divide
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
QUARTERS = [RED, GREEN, BLUE, GREY]  # top left, top right, bottom left, bottom right


def decode(content: bytes, size_px: int = SIDE) -> DecodedImage:
    return decode_image(
        content, size_px=size_px, resize_px=size_px, resample="bicubic", max_pixels=50_000_000
    )


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


# With which a format changes no pixel, or JPEG each by 2 at most.
FINEST: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "PNG": {},
}


def quartered(quarters: list[tuple[int, ...]]) -> NDArray[np.uint8]:
    """Returns pixels (side, side, channels) of four quarters of one colour each."""
    array = np.array(quarters, np.uint8).reshape(2, 2, -1)
    return array.repeat(SIDE // 2, axis=0).repeat(SIDE // 2, axis=1)


def assert_quarters(content: bytes, expected: list[tuple[int, ...]], atol: int = 0) -> None:
    pixels = decode(content).pixels.transpose(1, 2, 0)
    np.testing.assert_allclose(pixels.astype(int), quartered(expected), atol=atol)


def raw_png(depth: int, colour: int, rows: NDArray[np.generic], *chunks: bytes) -> bytes:
    """Returns a PNG of big-endian samples (height, width * channels), written without Pillow."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return png(chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(data)))


# EXIF orientation -> where the stored quarters 0 1 / 2 3 are seen (Exif 2.32, 4.6.4 A).
SEEN = {
    1: [0, 1, 2, 3],
    2: [1, 0, 3, 2],
    3: [3, 2, 1, 0],
    4: [2, 3, 0, 1],
    5: [0, 2, 1, 3],
    6: [2, 0, 3, 1],
    7: [3, 1, 2, 0],
    8: [1, 3, 0, 2],
}


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_upright_by_exif(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(quartered(QUARTERS))
    content = encode(stored, image_format, exif=exif, **FINEST[image_format])
    expected = [QUARTERS[place] for place in SEEN[orientation]]
    assert_quarters(content, expected, atol=2 if image_format == "JPEG" else 0)


def adobe_jpeg(stored: list[tuple[int, ...]], transform: int) -> bytes:
    """Returns a JPEG of four components with these values, as Adobe's programs mark them."""
    inks = Image.fromarray(255 - quartered(stored), "CMYK")  # Pillow stores them inverted
    content = encode(inks, "JPEG", quality=100)
    marker = content.index(b"Adobe")
    assert content[marker + 11] == 0
    return content[: marker + 11] + bytes([transform]) + content[marker + 12 :]


def test_cmyk_is_inverted_as_adobe_does() -> None:
    stored = [(255, 0, 0, 255), (0, 200, 100, 255), (80, 160, 240, 128), (255, 255, 255, 0)]
    expected = [(c * k // 255, m * k // 255, y * k // 255) for c, m, y, k in stored]
    assert_quarters(adobe_jpeg(stored, 0), expected, atol=3)


def test_ycck_is_inverted_as_adobe_does() -> None:
    stored = [(255, 128, 128, 255), (100, 128, 128, 255), (150, 100, 160, 128), (80, 90, 140, 200)]

    def seen(y: int, cb: int, cr: int, k: int) -> tuple[int, ...]:
        red = y + 1.402 * (cr - 128)  # ITU-R BT.601, full range, of the inverted inks
        green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
        blue = y + 1.772 * (cb - 128)
        return tuple(round((255 - ink) * k / 255) for ink in (red, green, blue))

    assert_quarters(adobe_jpeg(stored, 2), [seen(*quarter) for quarter in stored], atol=3)


def test_16_bit_grey_is_its_high_byte() -> None:
    values = [(0,), (300,), (30_000,), (65_535,)]
    samples = np.array(values, ">u2").reshape(2, 2).repeat(32, axis=0).repeat(32, axis=1)
    assert_quarters(raw_png(16, 0, samples), [(v >> 8,) * 3 for (v,) in values])


def test_the_transparent_value_of_16_bit_grey_is_white() -> None:
    values = [(0,), (300,), (301,), (65_535,)]
    samples = np.array(values, ">u2").reshape(2, 2).repeat(32, axis=0).repeat(32, axis=1)
    content = raw_png(16, 0, samples, chunk(b"tRNS", struct.pack(">H", 300)))
    assert_quarters(content, [(0,) * 3, (255,) * 3, (1,) * 3, (255,) * 3])


def test_16_bit_colour_is_its_high_byte() -> None:
    values = [(0, 300, 30_000), (65_535, 256, 255), (1, 2, 3), (40_000, 50_000, 60_000)]
    samples = np.array(values, ">u2").reshape(2, 2, 3).repeat(32, axis=0).repeat(32, axis=1)
    expected = [tuple(value >> 8 for value in quarter) for quarter in values]
    assert_quarters(raw_png(16, 2, samples.reshape(SIDE, -1)), expected)


def over_white(colour: tuple[int, ...], alpha: int) -> tuple[int, ...]:
    return tuple(round((value * alpha + 255 * (255 - alpha)) / 255) for value in colour)


ALPHAS = [0, 64, 128, 255]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_transparent_colour_lies_over_white(image_format: str) -> None:
    stored = [(*colour, alpha) for colour, alpha in zip(QUARTERS, ALPHAS, strict=True)]
    content = encode(Image.fromarray(quartered(stored)), image_format, **FINEST[image_format])
    expected = [over_white(quarter[:3], quarter[3]) for quarter in stored]
    assert_quarters(content, expected, atol=1)


def test_transparent_grey_lies_over_white() -> None:
    stored = [(10, 0), (10, 64), (200, 128), (99, 255)]
    samples = quartered(stored).reshape(SIDE, -1)
    expected = [over_white((grey,) * 3, alpha) for grey, alpha in stored]
    assert_quarters(raw_png(8, 4, samples), expected, atol=1)


def test_transparent_entries_of_a_palette_lie_over_white() -> None:
    samples = quartered([(0,), (1,), (2,), (3,)]).reshape(SIDE, -1)
    palette = chunk(b"PLTE", bytes(value for colour in QUARTERS for value in colour))
    content = raw_png(8, 3, samples, palette, chunk(b"tRNS", bytes(ALPHAS)))
    expected = [over_white(c, a) for c, a in zip(QUARTERS, ALPHAS, strict=True)]
    assert_quarters(content, expected, atol=1)


def test_the_transparent_entry_of_a_gif_is_white() -> None:
    indices = Image.fromarray(quartered([(0,), (1,), (2,), (3,)])[..., 0], "P")
    indices.putpalette(bytes(value for colour in QUARTERS for value in colour))
    assert_quarters(encode(indices, "GIF", transparency=1), [RED, (255,) * 3, BLUE, GREY])


def test_one_bit_is_black_and_white() -> None:
    samples = np.packbits(quartered([(0,), (1,), (1,), (0,)])[..., 0], axis=1)
    assert_quarters(raw_png(1, 0, samples), [(0,) * 3, (255,) * 3, (255,) * 3, (0,) * 3])


@pytest.mark.by_the_clock
@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame_however_many_follow(image_format: str) -> None:
    content = animation(image_format, 2_000)
    durations_s = []
    for _ in range(3):  # the fastest counts: a busy machine may interrupt
        started = time.perf_counter()
        pixels = decode(content).pixels
        durations_s.append(time.perf_counter() - started)
    np.testing.assert_array_equal(pixels[:, 32, 32], RED)
    assert min(durations_s) < 0.1


def test_a_phone_photo_is_its_first_picture() -> None:
    first = Image.fromarray(quartered(QUARTERS))
    second = Image.new("RGB", first.size, "white")
    content = encode(first, "MPO", save_all=True, append_images=[second], **FINEST["MPO"])
    assert_quarters(content, QUARTERS, atol=2)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_colour_profiles_are_ignored(image_format: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for icc in (profile, b"broken"):
        stored = Image.fromarray(quartered(QUARTERS))
        content = encode(stored, image_format, icc_profile=icc, **FINEST[image_format])
        assert_quarters(content, QUARTERS, atol=2 if image_format == "JPEG" else 0)


def test_a_single_pixel() -> None:
    pixels = decode(encode(Image.new("RGB", (1, 1), BLUE), "PNG")).pixels
    np.testing.assert_array_equal(
        pixels, np.broadcast_to(np.array(BLUE)[:, None, None], (3, 64, 64))
    )


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"zTXt", b"Comment\0\x09garbage"),
        chunk(b"iTXt", b"Comment\0\x01\x00\0\0garbage"),
        chunk(b"iCCP", b"profile\0\0garbage"),
        chunk(b"tIME", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"pHYs", b""),
        chunk(b"acTL", struct.pack(">II", 0, 0)),
        chunk(b"fcTL", bytes(3)),
        chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        chunk(b"tEXt", b"Comment\0text")[:-4] + b"\0\0\0\0",  # its checksum
    ],
    ids=lambda broken: broken[4:8].decode(),
)
def test_what_is_broken_beside_a_picture_does_not_matter(broken: bytes) -> None:
    whole = encode(Image.fromarray(quartered(QUARTERS)), "PNG")
    header = 8 + 12 + 13
    assert_quarters(whole[:header] + broken + whole[header:], QUARTERS)


def test_a_png_loses_nothing_that_makes_its_picture() -> None:
    whole = encode(Image.fromarray(quartered(QUARTERS)), "PNG")
    assert picture_only(whole) == whole
    marked = whole[:33] + chunk(b"tEXt", b"a\0b") + whole[33:]
    assert picture_only(marked) == whole
    for place in range(len(marked)):
        kept = picture_only(marked[:place])
        assert whole.startswith(kept) or kept == marked[:place]


# --- JPEG, decoded at a fraction of its size ----------------------------------------------------


def photograph(width: int, height: int) -> Image.Image:
    """Returns noise whose spectrum falls as those of photographs do, with grain on top."""
    noise = np.random.default_rng(width)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 10):
        coarse = noise.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel]).resize((width, height))
            picture[..., channel] += np.asarray(layer) / octave**1.5
    picture += noise.normal(size=picture.shape).astype(np.float32) * 0.05
    picture -= picture.min()
    return Image.fromarray((picture * (255 / picture.max())).astype(np.uint8))


def small_print(width: int, height: int) -> Image.Image:
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    chance = random.Random(7)
    for top in range(4, height, 14):
        line = "".join(chance.choice("abcdefghi  ") for _ in range(width // 6))
        draw.text((4, top), line, fill="black")
    return page


def psnr_db(pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    error = np.square(pixels.astype(float) - expected).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def exactly(content: bytes, size_px: int) -> NDArray[np.uint8]:
    """Returns the pixels of the reference processor, which decodes at full size."""
    image = Image.open(BytesIO(content))
    width, height = image.size
    short, long = sorted(image.size)
    length = int(size_px * long / short)
    size = (size_px, length) if width <= height else (length, size_px)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - size_px) // 2, (size[1] - size_px) // 2
    cropped = resized.crop((left, top, left + size_px, top + size_px))
    return np.asarray(cropped).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(1344, 1400), (2016, 1512), (1801, 2700), (3001, 2999)])
def test_large_photographs_are_within_50_db_of_the_reference(size: tuple[int, int]) -> None:
    content = encode(photograph(*size), "JPEG", quality=90)
    image = decode(content, 224)
    assert (image.width_px, image.height_px) == size
    assert 50 < psnr_db(image.pixels, exactly(content, 224)) < np.inf


def test_small_print_is_within_38_db_of_the_reference() -> None:
    content = encode(small_print(2_000, 1_500), "JPEG", quality=90)
    assert 38 < psnr_db(decode(content, 224).pixels, exactly(content, 224)) < np.inf


async def test_a_fraction_leaves_an_embedding_where_it_is() -> None:
    model = await asyncio.to_thread(open_model_folder, DEMO_MODEL_DIR)
    size_px = model.card.image_size_px
    async with OnnxEncoder(model) as encoder:
        for picture, least in (
            (photograph(2_016, 1_512), 0.9999),
            (small_print(2_000, 1_500), 0.999),
        ):
            content = encode(picture, "JPEG", quality=90)
            pixels = np.stack([decode(content, size_px).pixels, exactly(content, size_px)])
            embeddings = await encoder.encode_image(pixels)
            assert least < embeddings[0] @ embeddings[1] < 1


@pytest.mark.parametrize("size", [(1343, 1343), (1343, 5_000), (640, 480)])
def test_smaller_photographs_are_exactly_those_of_the_reference(size: tuple[int, int]) -> None:
    content = encode(photograph(*size), "JPEG", quality=90)
    np.testing.assert_array_equal(decode(content, 224).pixels, exactly(content, 224))


def test_a_photograph_decoded_at_a_fraction_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(quartered(QUARTERS)).resize((4_001, 3_001), Image.Resampling.NEAREST)
    image = decode(encode(stored, "JPEG", exif=exif, quality=95))
    assert (image.width_px, image.height_px) == (3_001, 4_001)
    quarters = [image.pixels[:, y, x] for y in (16, 48) for x in (16, 48)]
    np.testing.assert_allclose(quarters, [QUARTERS[place] for place in SEEN[6]], atol=2)


# --- In a worker --------------------------------------------------------------------------------


def test_decoding_imports_nothing_that_a_worker_has_not() -> None:
    """A confined worker can open no file, so it cannot import."""
    program = """
import importlib, pickle, sys
from clipsearch_server.decoding import process, worker
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.image import decode_image
from clipsearch_server.model import open_model_folder
for name in process._IMPORTED_LATE:
    importlib.import_module(name)
before = set(sys.modules)
for content in pickle.load(sys.stdin.buffer):
    try:
        decode_image(content, size_px=8, resize_px=8, resample="bicubic", max_pixels=1_000_000)
    except Exception:
        pass
print(*sorted(set(sys.modules) - before))
"""
    contents = [*valid_images().values(), *(content for content, _ in bombs().values())]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input=pickle.dumps(contents),
        capture_output=True,
        check=True,
    )
    assert done.stdout.split() == []
