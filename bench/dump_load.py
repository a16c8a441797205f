"""`clipsearch dump` and `load` of 100,000 images: time, peak memory, and queries meanwhile.

    .venv-dev/bin/python bench/dump_load.py

Memory is bounded if the peaks of the command and of the server do not grow with the collection: so
it is done for a quarter of the images first. The index process maps its files, which count. No
search graph is built, which would be measured too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import uuid
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clipsearch import EmbeddedImage, Image, Model, SearchClient
from clipsearch_server.testing import ServerProcess

QUERY_EVERY_S = 0.1
NO_GRAPH = ("--index-optimize-after-points", "1000000000")

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    arguments = parser.parse_args()
    table = Table("images", "step", "s", "images/s", "command", "server", "index", "p50", "p99")
    for count in (arguments.images // 4, arguments.images):
        with tempfile.TemporaryDirectory() as folder:
            measure(count, Path(folder), table)
    console.print(table)
    console.print("peak MB of each process; milliseconds of a query meanwhile")


def measure(count: int, folder: Path, table: Table) -> None:
    file = folder / "bench.parquet"
    with ServerProcess("--data-dir", str(folder / "a"), *NO_GRAPH) as server:
        with SearchClient(server.address) as client:
            images = random_images(count, client.server_info().model)
            batches = client.import_images(images)
            for _ in track(batches, "importing", total=-(-count // 64)):
                pass
        add_row(table, count, "dump", server, "dump", str(file))
    console.print(f"{count:,} images: a file of {file.stat().st_size / 1e6:.1f} MB")
    with ServerProcess("--data-dir", str(folder / "b"), *NO_GRAPH) as server:
        add_row(table, count, "load", server, "load", str(file))
        with SearchClient(server.address) as client:
            assert client.list_page(page_size=1).total_size == count


def random_images(count: int, model: Model) -> Iterator[EmbeddedImage]:
    rng = np.random.default_rng(0)
    now = datetime.now(UTC)
    for number in range(count):
        vector = rng.standard_normal(model.embedding_dim)
        vector /= np.linalg.norm(vector)
        yield EmbeddedImage(
            image=Image(
                id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
                url=f"https://example.com/pictures/{number}.jpg",
                uri=f"https://example.com/pictures/{number}.jpg",
                metadata={"number": number, "album": "bench", "tags": ["one", "two"]},
                sha256=f"{number:064x}",
                media_type="image/jpeg",
                width_px=640,
                height_px=480,
                size_bytes=100_000,
                create_time=now,
                update_time=now,
            ),
            embedding=array("f", vector),
            model_fingerprint=model.fingerprint,
        )


def add_row(table: Table, count: int, step: str, server: ServerProcess, *command: str) -> None:
    """Runs the command against the server, and measures both."""
    done = Event()
    latencies: list[float] = []
    asker = Thread(target=ask, args=(server.address, done, latencies))
    asker.start()
    start = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "clipsearch", "--server", server.address, *command]
    )
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    asker.join()
    assert process.returncode == 0
    percentiles = quantiles(latencies, n=100)
    table.add_row(
        *(f"{count:,}", step, f"{elapsed_s:.1f}", f"{count / elapsed_s:,.0f}"),
        f"{usage.ru_maxrss / 1024:.0f}",
        f"{peak_mb(server.process.pid):.0f}",
        f"{max(map(peak_mb, children(server.process.pid))):.0f}",
        *(f"{percentiles[49] * 1000:.1f}", f"{percentiles[98] * 1000:.1f}"),
    )


def ask(address: str, done: Event, latencies: list[float]) -> None:
    with SearchClient(address) as client:
        while not done.wait(QUERY_EVERY_S):
            start = perf_counter()
            client.query_text("a black cat")
            latencies.append(perf_counter() - start)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory of its own")


if __name__ == "__main__":
    main()
