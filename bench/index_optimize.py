"""How long searches take while the embedded index is written to and its search graph is built.

    .venv/bin/python bench/index_optimize.py

Fills an index with clustered synthetic embeddings, then measures searches (one caller, at a fixed
rate, the delay of a late one included) in four phases: idle and linear, while the first graph is
built, idle on the graph, while the graph is built anew. Writes of single images go on while a graph
is built. Prints a line a phase: percentiles, the longest pause of the event loop, and at the end
whether every write that was acknowledged is there and how many of the true ten nearest are found.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from time import perf_counter
from uuid import UUID

import numpy as np
from measuring import stored_image
from rich.console import Console

from clipsearch_server.indexes.edge.index import EdgeIndex
from clipsearch_server.indexes.edge.store import EdgeStore
from clipsearch_server.ports import CollectionSpec, Embeddings, NearestQuery, StoredImage
from clipsearch_server.settings.indexes import IndexSettings

TICK_S = 0.005

console = Console(highlight=False, soft_wrap=True)


class Clusters:
    """Endless embeddings around a thousand centres: cosine 0.6 to 0.9 within one."""

    def __init__(self, dim: int) -> None:
        self._random = np.random.default_rng(0)
        self._centres = self._random.standard_normal((1000, dim)).astype(np.float32)

    def take(self, n: int) -> Embeddings:
        centres = self._centres[self._random.integers(0, len(self._centres), n)]
        noise = self._random.standard_normal(centres.shape).astype(np.float32)
        vectors = centres + 0.7 * noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def an_image(number: int) -> StoredImage:
    """Under an id that scatters them."""
    return stored_image(number, UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128))


class Bench:
    def __init__(self, index: EdgeIndex, dim: int, query_hz: float, write_hz: float) -> None:
        self._index = index
        self._clusters = Clusters(dim)
        self._query_hz = query_hz
        self._write_hz = write_hz
        self.vectors: list[Embeddings] = []  # of the images 0, 1, 2, ... that were acknowledged
        self.written = 0

    async def fill(self, points: int) -> None:
        start = perf_counter()
        for _ in range(0, points, 1000):
            await self._add(1000)
        console.print(f"filled: {points / (perf_counter() - start):.0f} points/s")

    async def phase(self, name: str, work: Awaitable[None], *, writes: bool = False) -> None:
        """Measures searches until the work is done."""
        done = asyncio.ensure_future(work)
        latencies: list[float] = []
        lags: list[float] = []
        before, start = self.written, perf_counter()
        others = [self._query(done, latencies), self._tick(done, lags)]
        if writes:
            others.append(self._write(done))
        await asyncio.gather(done, *others)
        p50, p90, p99 = np.percentile(latencies, [50, 90, 99]) * 1e3
        console.print(
            f"{name:16} {perf_counter() - start:6.1f} s {len(latencies):6} searches  "
            f"p50 {p50:6.1f} ms  p90 {p90:6.1f} ms  p99 {p99:6.1f} ms  "
            f"max {max(latencies) * 1e3:6.1f} ms  "
            f"loop pause {max(lags) * 1e3:5.1f} ms  {self.written - before} writes"
        )

    async def verify(self) -> None:
        numbers = set()
        start_id = None
        while True:
            page = await self._index.list(limit=1000, start_id=start_id)
            numbers |= {image.metadata["number"] for image in page.images}
            start_id = page.next_id
            if start_id is None:
                break
        lost = self.written - len(numbers & set(range(self.written)))
        stored = np.concatenate(self.vectors)
        found = 0
        for query in self._clusters.take(100):
            nearest = np.argsort(-(stored @ query))[:10]
            (hits,) = await self._index.search([NearestQuery(embedding=query, limit=10)])
            images = await self._index.get([hit.id for hit in hits])
            found += len({image.metadata["number"] for image in images} & set(nearest.tolist()))
        console.print(f"{self.written} acknowledged, {lost} lost; recall@10 {found / 1000:.3f}")

    async def _add(self, n: int) -> None:
        vectors = self._clusters.take(n)
        await self._index.upsert([an_image(self.written + i) for i in range(n)], vectors)
        self.vectors.append(vectors)
        self.written += n

    async def _query(self, done: asyncio.Future[None], latencies: list[float]) -> None:
        due = perf_counter()
        while not done.done():
            (query,) = self._clusters.take(1)
            await self._index.search([NearestQuery(embedding=query, limit=10)])
            latencies.append(perf_counter() - due)
            due = max(due + 1 / self._query_hz, perf_counter() - 1)  # at most a second behind
            await asyncio.sleep(max(0, due - perf_counter()))

    async def _write(self, done: asyncio.Future[None]) -> None:
        due = perf_counter()
        while not done.done():
            await self._add(1)
            due += 1 / self._write_hz
            await asyncio.sleep(max(0, due - perf_counter()))

    async def _tick(self, done: asyncio.Future[None], lags: list[float]) -> None:
        while not done.done():
            start = perf_counter()
            await asyncio.sleep(TICK_S)
            lags.append(perf_counter() - start - TICK_S)


async def main(arguments: argparse.Namespace, data_dir: Path) -> None:
    spec = CollectionSpec(model_id="bench", fingerprint="0" * 64, embedding_dim=arguments.dim)
    async with EdgeStore(
        data_dir,
        default="bench",
        spec=spec,
        optimize_after_points=10**9,  # when we say so
        hnsw_ef=IndexSettings().hnsw_ef,
        max_in_flight=1000,
        timeout_s=60,
    ) as store:
        index = await store.open("bench-1")
        bench = Bench(index, arguments.dim, arguments.query_hz, arguments.write_hz)
        await bench.fill(arguments.points)
        await asyncio.sleep(2)  # past the flush of an idle process
        await bench.phase("idle, linear", asyncio.sleep(arguments.idle_s))
        await bench.phase("first graph", index.optimize(), writes=True)
        await bench.phase("idle, graph", asyncio.sleep(arguments.idle_s))
        if arguments.again:
            await bench.phase("graph anew", index.optimize(), writes=True)
        await bench.verify()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--query-hz", type=float, default=8.0)
    parser.add_argument("--write-hz", type=float, default=50.0)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--again", action="store_true", help="build the graph a second time")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(parser.parse_args(), Path(folder)))
