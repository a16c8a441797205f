"""The encoders on a real Triton against the same files in this process: agreement, batches, time.

    .venv-dev/bin/python bench/triton_batches.py build/triton/demo

The model folder must be one of the python backend (`make triton` makes the demo model's). Both run
on this machine's CPU, one after the other, so the ratios tell what the way to Triton costs, and
nothing of a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from clipsearch_server.encoders.batching import BatchingEncoder
from clipsearch_server.encoders.ort import OnnxEncoder
from clipsearch_server.encoders.triton import TritonEncoder
from clipsearch_server.model import ModelCard, open_model_folder
from clipsearch_server.ports import Encoder
from clipsearch_server.testing import TritonProcess

HOME = Path(__file__).parents[1] / ".triton"
TEXTS = 64
IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, help="model folder of Triton's python backend")
    parser.add_argument("--repeat", type=int, default=5, help="times that each figure is taken")
    arguments = parser.parse_args()
    with TritonProcess(HOME, arguments.models) as triton:
        asyncio.run(compare(triton.address, arguments.models, arguments.repeat))
    triton.release()


async def compare(address: str, models: Path, repeat: int) -> None:
    model = open_model_folder(models)
    texts, images = samples(model.card)
    how: dict[str, Any] = {
        "pad_token_id": model.card.end_token_id,
        "max_batch": 16,
        "max_image_batch": 16,
    }
    async with (
        TritonEncoder(model.card, address=address, timeout_s=120) as remote,
        OnnxEncoder(model) as local,
        BatchingEncoder(remote, **how, max_waiting=1000, concurrency=8) as on_triton,
        BatchingEncoder(local, **how, max_waiting=1000) as in_process,
    ):
        await remote.health()
        before = executions(address)
        ours = await texts_at_once(on_triton, texts)
        after = executions(address)
        theirs = await texts_at_once(in_process, texts)
        pixels_ours = await remote.encode_image(images)
        pixels_theirs = await local.encode_image(images)
        table = Table(title=f"{model.card.model_id}: {remote.description}, {local.description}")
        table.add_column("what")
        for column in ("triton", "in-process", "ratio"):
            table.add_column(column, justify="right")
        for name, work in (
            ("1 text, 10 tokens, ms", lambda e: e.encode_text(texts[0][:, :10])),
            ("1 image, ms", lambda e: e.encode_image(images[:1])),
            (f"{TEXTS} texts at once, ms", lambda e: texts_at_once(e, texts)),
            (f"{IMAGES} images at once, ms", lambda e: images_at_once(e, images)),
        ):
            slow, fast = [await time_ms(work, e, repeat) for e in (on_triton, in_process)]
            table.add_row(name, f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"largest difference: texts {np.abs(ours - theirs).max():.1e}, "
        f"images {np.abs(pixels_ours - pixels_theirs).max():.1e}"
    )
    console.print(
        f"{after[0] - before[0]} concurrent texts of {texts[0].shape[1]} to "
        f"{max(ids.shape[1] for ids in texts)} tokens in {after[1] - before[1]} executions"
    )


def samples(card: ModelCard) -> tuple[list[Any], Any]:
    """Texts of mixed length, each ended as a tokenizer ends it, and images of noise."""
    random = np.random.default_rng(0)
    lengths = [12, *random.integers(4, card.max_tokens, TEXTS - 1)]
    texts = [random.integers(0, card.start_token_id, (1, length)) for length in lengths]
    for ids in texts:
        ids[0, -1] = card.end_token_id
    size = card.image_size_px
    return texts, random.integers(0, 256, (IMAGES, 3, size, size)).astype(np.uint8)


async def texts_at_once(encoder: Encoder, texts: list[Any]) -> Any:
    return np.concatenate(await asyncio.gather(*(encoder.encode_text(ids) for ids in texts)))


async def images_at_once(encoder: Encoder, images: Any) -> Any:
    calls = (encoder.encode_image(pixels[None]) for pixels in images)
    return np.concatenate(await asyncio.gather(*calls))


async def time_ms(work: Any, encoder: Encoder, repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = perf_counter()
        await work(encoder)
        times.append((perf_counter() - start) * 1000)
    return median(times)


def executions(address: str) -> tuple[int, int]:
    """How many texts Triton has embedded, and in how many batches."""
    with InferenceServerClient(address) as client:
        (statistics,) = client.get_inference_statistics("clip_text").model_stats
    return statistics.inference_count, statistics.execution_count


if __name__ == "__main__":
    main()
