"""The port ImageDecoder, held to its docstring: the fake in this process, and worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from broken_images import bombs, valid_images
from clipsearch_server.decoding.pool import WorkerPool
from clipsearch_server.errors import InvalidImage
from clipsearch_server.image import decode_image
from clipsearch_server.ports import DecodedImage, ImageDecoder
from fakes import InProcessDecoder

SIZE_PX = 16
MAX_PIXELS = 1_000_000


@pytest_asyncio.fixture(params=["fake", "workers"])
async def decoder(request: pytest.FixtureRequest) -> AsyncIterator[ImageDecoder]:
    if request.param == "fake":
        yield InProcessDecoder(size_px=SIZE_PX, max_pixels=MAX_PIXELS)
        return
    async with WorkerPool(
        size_px=SIZE_PX,
        resize_px=SIZE_PX,
        resample="bicubic",
        max_pixels=MAX_PIXELS,
        max_bytes=4 * 2**20,
        workers=2,
        memory_bytes=2**29,
        cpu_s=5,
        max_waiting=100,
    ) as pool:
        yield pool


def decoded(content: bytes) -> DecodedImage:
    return decode_image(
        content, size_px=SIZE_PX, resize_px=SIZE_PX, resample="bicubic", max_pixels=MAX_PIXELS
    )


async def test_images_are_decoded_side_by_side(decoder: ImageDecoder) -> None:
    contents = list(valid_images().values())
    images = await asyncio.gather(*(decoder.decode(content) for content in contents * 3))
    for content, image in zip(contents * 3, images, strict=True):
        expected = decoded(content)
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert image.pixels.dtype == np.uint8
        assert image.media_type == expected.media_type
        assert (image.width_px, image.height_px) == (expected.width_px, expected.height_px)


@pytest.mark.parametrize("name", ["pixels, PNG", "scans", "no size, JPEG"])
async def test_a_refusal_says_why(decoder: ImageDecoder, name: str) -> None:
    content, reason = bombs()[name]
    with pytest.raises(InvalidImage) as expected:
        decoded(content)
    with pytest.raises(InvalidImage) as caught:
        await decoder.decode(content)
    assert caught.value.reason == expected.value.reason == reason
    assert caught.value.message == expected.value.message
    assert caught.value.metadata == expected.value.metadata


@pytest.mark.parametrize("content", [b"", b"<html>", b"GIF89"])
async def test_other_content_is_refused(decoder: ImageDecoder, content: bytes) -> None:
    with pytest.raises(InvalidImage) as caught:
        await decoder.decode(content)
    assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"


async def test_a_caller_that_gives_up_disturbs_no_other(decoder: ImageDecoder) -> None:
    content = valid_images()["PNG"]
    calls = [asyncio.create_task(decoder.decode(content)) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    images = await asyncio.gather(*calls[1::2])
    assert len(images) == 10
