"""How long decoding takes: of JPEGs at full size and at a fraction, and in a worker against here.

python bench/decode.py    # seconds of all numbers are the fastest of several, taken in turns
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
from PIL import Image

from clipsearch_server.decoding.pool import WorkerPool
from clipsearch_server.image import decode_image
from clipsearch_server.settings import ImageSettings

SIZE_PX = 224
REPEATS = 15
SIZES = ((640, 480), (2_016, 1_512), (4_000, 3_000), (6_000, 4_000))
AT_ONCE = 64

OPTIONS = {"size_px": SIZE_PX, "resize_px": SIZE_PX, "resample": "bicubic"}
MAX_PIXELS = ImageSettings().max_pixels


def photograph(width: int, height: int) -> bytes:
    """A JPEG of noise whose spectrum falls as those of photographs do, with grain on top."""
    noise = np.random.default_rng(width)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 10):
        coarse = noise.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel]).resize((width, height))
            picture[..., channel] += np.asarray(layer) / octave**1.5
    picture += noise.normal(size=picture.shape).astype(np.float32) * 0.05
    picture -= picture.min()
    stream = io.BytesIO()
    scaled = (picture * (255 / picture.max())).astype(np.uint8)
    Image.fromarray(scaled).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def at_full_size(content: bytes) -> None:
    """What the reference processor does."""
    image = Image.open(io.BytesIO(content))
    short, long = sorted(image.size)
    length = int(SIZE_PX * long / short)
    size = (length, SIZE_PX) if image.width > image.height else (SIZE_PX, length)
    image.resize(size, Image.Resampling.BICUBIC)


async def fastest_ms(*works: Callable[[], Awaitable[object]]) -> list[float]:
    times: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS):
        for place, work in enumerate(works):
            start = time.perf_counter()
            await work()
            times[place].append((time.perf_counter() - start) * 1000)
    return [min(taken) for taken in times]


async def main() -> None:
    async with WorkerPool(
        **OPTIONS,  # type: ignore[arg-type]
        max_pixels=MAX_PIXELS,
        max_bytes=ImageSettings().max_bytes,
        workers=0,
        memory_bytes=ImageSettings().decode_memory_mib * 2**20,
        cpu_s=60,
        max_waiting=AT_ONCE,
    ) as pool:
        here = partial(decode_image, **OPTIONS, max_pixels=MAX_PIXELS)  # type: ignore[arg-type]
        print("ms, and how many times as fast as full size:")
        print("size         encoded  full size  fraction      in a worker")
        for width, height in SIZES:
            content = photograph(width, height)
            full, fraction, worker = await fastest_ms(
                partial(asyncio.to_thread, at_full_size, content),
                partial(asyncio.to_thread, here, content),
                partial(pool.decode, content),
            )
            print(
                f"{width:5} x {height:5} {len(content) / 2**20:5.1f} MB {full:8.1f} "
                f"{fraction:8.1f} {full / fraction:4.1f}x {worker:8.1f} {full / worker:4.1f}x"
            )
        content = photograph(640, 480)

        async def all_in(decode: Callable[[bytes], Awaitable[object]]) -> None:
            await asyncio.gather(*(decode(content) for _ in range(AT_ONCE)))

        threads, workers = await fastest_ms(
            partial(all_in, partial(asyncio.to_thread, here)), partial(all_in, pool.decode)
        )
        print(
            f"{AT_ONCE} of 640 x 480 at once: {AT_ONCE * 1000 / threads:.0f} a second in threads, "
            f"{AT_ONCE * 1000 / workers:.0f} in workers, {threads / workers:.2f}x"
        )

        noise = np.random.default_rng(1).integers(0, 256, (2_500, 2_500, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "PNG", compress_level=0)
        large = stream.getvalue()
        pauses: list[float] = []

        async def watch() -> None:
            while True:
                start = time.perf_counter()
                await asyncio.sleep(0)
                pauses.append((time.perf_counter() - start) * 1000)

        watching = asyncio.create_task(watch())
        for _ in range(5):
            await pool.decode(large)
        watching.cancel()
        print(f"longest pause of the event loop, {len(large) / 2**20:.0f} MB: {max(pauses):.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
