"""QueryText with 10,000 images stored: p50 and p99 at 1 and 32 concurrent callers, by stage.

    .venv/bin/python bench/query_latency.py

The callers are in this process, the server is in its own. The stages are what the server says of
itself in the trailing metadata; ``rest`` is what it spent besides, ``wire`` what the caller waited
on top.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import tempfile
import uuid
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import quantiles
from time import perf_counter

from rich.console import Console
from rich.progress import track
from rich.table import Table

from clipsearch import AddItem, AsyncSearchClient, SearchClient
from clipsearch_server.testing import ServerProcess

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"
STAGES = ("tokenise", "embed", "search", "rest", "wire", "all")

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=2_000, help="queries a row of the table")
    parser.add_argument("--model-dir", help="model folder; default: the demo model")
    arguments = parser.parse_args()
    options = ["--model-dir", arguments.model_dir] if arguments.model_dir else []
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess("--data-dir", folder, "--duplicates", "allow", *options) as server,
    ):
        fill(server.address, arguments.images)
        for callers in (1, 32):
            samples = asyncio.run(query(server.address, callers, arguments.queries))
            console.print(table(callers, samples))


def fill(address: str, images: int) -> None:
    """Stores the sample pictures again and again, under a new id each time."""
    files = sorted(PICTURES.glob("*.png")) + sorted(PICTURES.glob("*.webp"))

    def items() -> Iterator[AddItem]:
        for number, file in enumerate(islice(cycle(files), images)):
            image_id = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
            yield AddItem(item_id=str(number), id=image_id, content=file.read_bytes())

    start = perf_counter()
    with SearchClient(address) as client:
        for result in track(client.add_images(items()), "adding images", total=images):
            if result.error:
                raise result.error
    console.print(f"{images} images added in {perf_counter() - start:.1f} s")


async def query(address: str, callers: int, queries: int) -> list[dict[str, float]]:
    """Runs the queries, and returns the milliseconds of each by stage."""
    with (PICTURES / "pictures.csv").open(newline="", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    # All of them new: what was asked before would be answered from memory.
    asked = f"{callers} at a time"
    texts = iter(
        [f"{name} {n} of {asked}" for n, name in enumerate(islice(cycle(names), queries + callers))]
    )
    samples: list[dict[str, float]] = []

    async def caller(client: AsyncSearchClient, *, recorded: bool) -> None:
        for text in texts if recorded else islice(texts, 1):
            start = perf_counter()
            result = await client.query_text(text)
            if recorded:
                samples.append(split((perf_counter() - start) * 1000, dict(result.timings_ms)))

    async with AsyncSearchClient(address) as client:
        await asyncio.gather(*(caller(client, recorded=False) for _ in range(callers)))
        await asyncio.gather(*(caller(client, recorded=True) for _ in range(callers)))
    return samples


def split(all_ms: float, server_ms: dict[str, float]) -> dict[str, float]:
    total = server_ms.pop("total")
    return {
        **server_ms,
        "rest": total - sum(server_ms.values()),
        "wire": all_ms - total,
        "all": all_ms,
    }


def table(callers: int, samples: list[dict[str, float]]) -> Table:
    result = Table(title=f"QueryText, {callers} callers, {len(samples)} queries: milliseconds")
    result.add_column("")
    for stage in STAGES:
        result.add_column(stage, justify="right")
    for name, percent in (("p50", 50), ("p99", 99)):
        cells = [
            quantiles([sample[stage] for sample in samples], n=100)[percent - 1] for stage in STAGES
        ]
        result.add_row(name, *(f"{cell:.2f}" for cell in cells))
    return result


if __name__ == "__main__":
    main()
