"""How much memory one decode takes at most: images of max_pixels, each decoded in a new process.

python bench/decode_memory.py    # on Linux
"""

from __future__ import annotations

import io
import multiprocessing
from pathlib import Path

from PIL import Image

from clipsearch_server.image import decode_image
from clipsearch_server.settings import ImageSettings

WIDTH = 7000
HEIGHT = ImageSettings().max_pixels // WIDTH
PROCESS = Path("/proc/self/status")


def status_kib(name: str) -> int:
    (line,) = (line for line in PROCESS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def peak_kib(content: bytes) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status_kib("VmRSS")
    decode_image(content, size_px=224, resize_px=224, resample="bicubic", max_pixels=WIDTH * HEIGHT)
    return status_kib("VmHWM") - before


def main() -> None:
    print(f"{WIDTH} x {HEIGHT} pixels, MiB at the peak, the encoded image not counted:")
    for kind, mode in (("PNG", "RGB"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "CMYK")):
        encoded = io.BytesIO()
        # One colour: small enough for max_bytes, and as large as any once it is decoded.
        Image.new(mode, (WIDTH, HEIGHT)).save(encoded, kind)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"{kind:4} {mode:4} {pool.apply(peak_kib, (encoded.getvalue(),)) / 1024:5.0f}")


if __name__ == "__main__":
    main()
