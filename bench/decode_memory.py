"""What one decode takes at most: images of max_pixels, each decoded in a new process.

python bench/decode_memory.py    # on Linux; takes a few minutes
"""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch_server.image import decode_image
from clipsearch_server.settings import ImageSettings

WIDTH = 7000
HEIGHT = ImageSettings().max_pixels // WIDTH
PROCESS = Path("/proc/self/status")


def status_kib(name: str) -> int:
    (line,) = (line for line in PROCESS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def cost(content: bytes) -> tuple[float, float]:
    """Returns MiB of address space at the peak, and seconds of processor time."""
    before = status_kib("VmSize")
    start = time.process_time()
    decode_image(content, size_px=224, resize_px=224, resample="bicubic", max_pixels=WIDTH * HEIGHT)
    return (status_kib("VmPeak") - before) / 1024, time.process_time() - start


def images() -> Iterator[tuple[str, bytes]]:
    """Noise, as coarse as keeps an encoded image within the default of max_bytes."""

    def coarse(channels: int, step: int) -> np.ndarray:
        shape = (HEIGHT // step + 1, WIDTH // step + 1, channels)
        noise = np.random.default_rng(step).integers(0, 256, shape, dtype=np.uint8)
        return noise.repeat(step, 0).repeat(step, 1)[:HEIGHT, :WIDTH]

    def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, image_format, **options)
        return stream.getvalue()

    rgb = Image.fromarray(coarse(3, 8))
    rgba = Image.fromarray(coarse(4, 8))
    palette = rgb.quantize(256)
    progressive = {"progressive": True, "subsampling": 0}
    yield "JPEG", encode(rgb, "JPEG")
    yield "JPEG, progressive", encode(rgb, "JPEG", **progressive)
    yield "JPEG, progressive, CMYK", encode(rgb.convert("CMYK"), "JPEG", **progressive)
    yield "PNG", encode(rgb, "PNG")
    yield "PNG, RGBA", encode(rgba, "PNG")
    yield "PNG, grey and alpha", encode(rgba.convert("LA"), "PNG")
    yield "PNG, palette and alpha", encode(palette, "PNG", transparency=3)
    yield "PNG, 16 bit", encode(Image.fromarray(coarse(1, 8)[..., 0].astype(np.uint16)), "PNG")
    yield "GIF", encode(palette, "GIF")
    yield "GIF, transparent", encode(palette, "GIF", transparency=3)
    smooth = Image.fromarray(coarse(4, 512))  # lossy WEBP has too little room for more
    yield "WEBP", encode(smooth.convert("RGB"), "WEBP", method=0)
    yield "WEBP, RGBA", encode(smooth, "WEBP", method=0)
    yield "WEBP, lossless", encode(rgb, "WEBP", lossless=True, method=0)
    yield "WEBP, lossless, RGBA", encode(rgba, "WEBP", lossless=True, method=0)
    second = Image.new("RGBA", rgba.size)
    yield "WEBP, animated", encode(smooth, "WEBP", save_all=True, append_images=[second], method=0)


def main() -> None:
    print(f"{WIDTH} x {HEIGHT} pixels              encoded    memory  processor")
    for name, content in images():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory_mib, cpu_s = pool.apply(cost, (content,))
        print(f"{name:24} {len(content) / 2**20:7.1f} MiB {memory_mib:5.0f} MiB {cpu_s:8.1f} s")


if __name__ == "__main__":
    main()
