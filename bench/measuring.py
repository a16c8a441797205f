"""What several of these programs need: pictures, a filled server, and the machine's description."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import quantiles
from uuid import UUID

import numpy as np
from PIL import Image

from clipsearch import AddItem, SearchClient
from clipsearch_server.ports import StoredImage

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parent.parent / "demo" / "pictures"
_NOW = datetime.now(UTC)
_PACKAGES = ("grpcio", "onnxruntime", "qdrant-edge-py", "numpy", "pillow")


def machine() -> dict[str, object]:
    """What a result says of where it was taken."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def fill(client: SearchClient, count: int) -> None:
    """Adds so many of the demo's pictures."""
    files = sorted(PICTURES.glob("*.png"))[:count]
    for result in client.add_images(
        AddItem(item_id=file.name, content=file.read_bytes()) for file in files
    ):
        if result.error:
            raise result.error


def photograph(number: int, width: int = 640, height: int = 480) -> bytes:
    """A JPEG of noise over soft shapes, which compresses as photographs do."""
    generator = np.random.default_rng(number + 2**32)
    shapes = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8))
    soft = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = generator.integers(-12, 13, (height, width, 1), np.int16)
    stream = BytesIO()
    Image.fromarray(np.clip(soft + noise, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def stored_image(number: int, image_id: UUID) -> StoredImage:
    """An image with some metadata, as an index keeps it."""
    url = f"https://example.com/pictures/{number}.jpg"
    return StoredImage(
        id=image_id,
        url=url,
        uri=url,
        metadata={"number": number},
        sha256=f"{number:064x}",
        media_type="image/jpeg",
        width_px=640,
        height_px=480,
        size_bytes=100_000,
        create_time=_NOW,
        update_time=_NOW,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
