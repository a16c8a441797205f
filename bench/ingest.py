"""How fast images get in, end to end, against the encoder alone on the same cores.

    .venv/bin/python bench/ingest.py [MODEL_FOLDER ...]

Without a folder: the demo model. For the size that is used in earnest without its weights, whose
values do not matter here, save a `CLIPModel(CLIPConfig.from_pretrained(FOLDER))` of random ones
beside the tokenizer's files, and export that (`python -m clipsearch_export`).

Each round measures the bare encoder, on pixels that are decoded already and in full batches, and
then a server process with an Edge index, to which this process sends the same pictures as JPEGs
over loopback. The ratio of a round is what counts: both halves had the same machine. If others use
it too, rates only ever drop, and the ratio of the best is nearer the truth than the median. The
pictures are made on the spot: noise over soft shapes, which compresses as photos do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from measuring import photograph
from rich.console import Console
from rich.table import Table

from clipsearch import AddItem, AddOutcome, SearchClient
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.image import decode_image
from clipsearch_server.model import ModelFolder, open_model_folder
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess

BATCH = 16  # as the server's encoder.max_batch is unless it is set
SIZES = [(640, 480)] * 9 + [(2000, 1500)]

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", help="default: the demo model")
    parser.add_argument("--images", type=int, default=320, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--option", action="append", default=[], help="of the server")
    arguments = parser.parse_args()
    for folder in arguments.models or [DEMO_MODEL_DIR]:
        compare(open_model_folder(folder), arguments.images, arguments.rounds, arguments.option)


def compare(model: ModelFolder, images: int, rounds: int, options: Sequence[str]) -> None:
    contents = [photograph(number, *SIZES[number % len(SIZES)]) for number in range(images)]
    pixels = np.stack([decoded(content, model) for content in contents])
    table = Table(title=f"{model.card.model_id}: {images} images on {os.cpu_count()} cores")
    for column in ("round", "encoder alone, images/s", "end to end, images/s", "ratio"):
        table.add_column(column, justify="right")
    rates: list[tuple[float, float]] = []
    for number in range(rounds):
        alone = images / asyncio.run(embed(model, pixels))
        whole = images / ingest(model, contents, options)
        rates.append((alone, whole))
        table.add_row(str(number + 1), f"{alone:.1f}", f"{whole:.1f}", f"{whole / alone:.2f}")
    table.add_row("median", "", "", f"{median(whole / alone for alone, whole in rates):.2f}")
    alone, whole = (max(column) for column in zip(*rates, strict=True))
    table.add_row("best", f"{alone:.1f}", f"{whole:.1f}", f"{whole / alone:.2f}")
    console.print(table)


async def embed(model: ModelFolder, pixels: np.ndarray) -> float:
    """Returns the seconds that the bare encoder takes."""
    async with OnnxEncoder(model) as encoder:
        await encoder.encode_image(pixels[:BATCH])
        start = perf_counter()
        for first in range(0, len(pixels), BATCH):
            await encoder.encode_image(pixels[first : first + BATCH])
        return perf_counter() - start


def ingest(model: ModelFolder, contents: Sequence[bytes], options: Sequence[str]) -> float:
    """Returns the seconds that a server takes to store all; it is warm."""
    with (
        tempfile.TemporaryDirectory() as data_dir,
        ServerProcess("--data-dir", data_dir, "--model-dir", str(model.path), *options) as server,
        SearchClient(server.address) as client,
    ):
        for number in range(BATCH):
            client.add_image(content=photograph(-1 - number))
        start = perf_counter()
        items = (AddItem(item_id=str(n), content=content) for n, content in enumerate(contents))
        for result in client.add_images(items):
            if result.added is None or result.added.outcome is not AddOutcome.ADDED:
                raise RuntimeError(f"{result.item_id} was not added: {result.error}")
        return perf_counter() - start


def decoded(content: bytes, model: ModelFolder) -> np.ndarray:
    card = model.card
    return decode_image(
        content,
        size_px=card.image_size_px,
        resize_px=card.resize_px,
        resample=card.resample,
        max_pixels=2**30,
    ).pixels


if __name__ == "__main__":
    main()
