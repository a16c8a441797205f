"""What a server takes: memory and disk at rest and with images in it, and queries a second.

    .venv-dev/bin/python bench/sizing.py [--images 100000] [--model-dir FOLDER]

Memory is what each process has for itself and its share of what it has in common with others (the
kernel's Pss), in MB, so that the sum is what the machine must have. The embeddings are random, so
only sizes and times mean something; the index process maps its files, which the kernel may take
back. Each query is a text that was not asked before, which the server embeds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from itertools import count
from pathlib import Path
from time import perf_counter, sleep

import psutil
from dump_load import random_images
from rich.console import Console
from rich.table import Table

from clipsearch import AsyncSearchClient, SearchClient
from clipsearch_server.testing import ServerProcess

CALLERS = (1, 32)
GRAPH_FROM = 20_000  # images: index.optimize_after_points
TEXTS = count()

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of queries in each row")
    parser.add_argument("--model-dir", help="model folder; default: the demo model")
    arguments = parser.parse_args()
    options = ["--model-dir", arguments.model_dir] if arguments.model_dir else []
    table = Table(
        "images", "server", "index", "decoders", "disk", *(f"{n} callers" for n in CALLERS)
    )
    with tempfile.TemporaryDirectory() as folder:
        for images in (0, arguments.images):
            # Started anew, so that what importing took is given back.
            with ServerProcess("--data-dir", folder, *options) as server:
                if images:
                    fill(server.address, images)
                while images > GRAPH_FROM and ": optimized" not in server.log:
                    sleep(1)
            with ServerProcess("--data-dir", folder, *options) as server:
                rates = [
                    asyncio.run(queries_a_second(server.address, callers, arguments.seconds))
                    for callers in CALLERS
                ]
                memory = megabytes(server.process.pid)
            disk = sum(file.stat().st_blocks * 512 for file in Path(folder).rglob("*")) / 1e6
            table.add_row(
                f"{images:,}",
                *(f"{memory[part]:.0f}" for part in ("server", "index", "decoders")),
                f"{disk:.0f}",
                *(f"{rate:.0f}" for rate in rates),
            )
    console.print(table)
    console.print(f"MB; queries a second on {os.cpu_count()} cores, which the callers use too")


def fill(address: str, images: int) -> None:
    with SearchClient(address) as client:
        for _ in client.import_images(random_images(images, client.server_info().model)):
            pass


async def queries_a_second(address: str, callers: int, seconds: float) -> float:
    async with AsyncSearchClient(address) as client:
        end = perf_counter() + seconds

        async def caller() -> int:
            asked = 0
            while perf_counter() < end:
                await client.query_text(f"a black cat, number {next(TEXTS)}")
                asked += 1
            return asked

        return sum(await asyncio.gather(*(caller() for _ in range(callers)))) / seconds


def megabytes(pid: int) -> dict[str, float]:
    """The memory of the server and of the processes that it started, by what they do."""
    memory = {"server": 0.0, "index": 0.0, "decoders": 0.0}
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        command = " ".join(process.cmdline())
        part = (
            "index" if ".edge." in command else "decoders" if ".decoding." in command else "server"
        )
        memory[part] += process.memory_full_info().pss / 1e6
    return memory


if __name__ == "__main__":
    main()
