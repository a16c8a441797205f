"""Texts and images on which an export is compared with its checkpoint."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SAMPLE_TEXTS = (
    "a black cat",
    "a photo of two dogs playing with a red ball on the beach",
    "slice of pizza",
    "heavy rain over a city at night, seen from a window",
    "PHOTO of the Eiffel Tower!!!",
    "it's John's bike, isn't it?",
    "3 zebras & 2 giraffes (from above)",
    "café crème brûlée",
    "日本の桜",
    "красная машина",
    "happy birthday 🎂",
    "x",
    "a diagram of the water cycle; arrows, labels: evaporation, condensation, precipitation",
    "sunset",
    # Beyond every token limit, so that cutting is compared too.
    "a very long description of a picture with many things in it, " * 40,
)
# Landscape, portrait, square, panorama, smaller than any model's input, a prime by a prime.
_SIZES_PX = ((640, 480), (480, 640), (512, 512), (1000, 220), (33, 47), (401, 307), (97, 512))


def sample_images() -> list[Image.Image]:
    """RGB images with what photographs have: smooth shading, sharp edges, texture and noise. The
    same ones every time."""
    random = np.random.default_rng(0)
    return [_image(width, height, random) for width, height in _SIZES_PX]


def _image(width: int, height: int, random: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = random.uniform(1, 20, size=(3, 2)) / max(width, height)
    shading = np.stack([np.sin(6.28 * (fx * x + fy * y)) for fx, fy in waves], axis=-1)
    noise = random.normal(0, random.uniform(0, 30), size=(height, width, 3))
    image = Image.fromarray(np.clip(128 + 90 * shading + noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = random.uniform(0, 0.8, size=2) * (width, height)
        right, bottom = (left, top) + random.uniform(0.1, 0.5, size=2) * (width, height)
        colour = tuple(int(channel) for channel in random.integers(0, 256, size=3))
        if random.random() < 0.5:
            draw.ellipse((left, top, right, bottom), fill=colour)
        else:
            draw.rectangle((left, top, right, bottom), fill=colour)
    return image
