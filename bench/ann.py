"""Recall, latency, memory and build time of the search graph: plain, int8 and TurboQuant 4-bit.

    .venv-dev/bin/python bench/ann.py build --points 100000     # minutes; an hour for a million
    .venv-dev/bin/python bench/ann.py measure --points 100000   # bench/results/ann-100000.json
    .venv-dev/bin/python bench/ann_report.py                    # bench/results/ann.md

``build`` makes shards of synthetic embeddings (clip_like.py) with the server's own configuration of
Qdrant Edge, without payloads: one as it is before ``optimize``, and a copy of it optimised for each
kind of quantisation. It keeps them in --work (12 GB for a million), and goes on where it was cut
off.

``measure`` asks each shard in a process of its own: first pictures, untimed, then texts, one at a
time. What is found is held against the ten nearest by numpy's float32 products with every vector.
All rows are measured in turn, and this several times. The machine may have other work, so a query
takes what it took when it was fastest, and the percentiles are over the queries; what the passes
looked like is in the results beside the load. Memory is what the process has after the queries
less what it had before it opened the shard, so without Python.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from clip_like import BLOCK, DIM, ClipLike, describe
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from clipsearch_server.indexes.edge.protocol import Points
from clipsearch_server.indexes.edge.shard import Shard
from clipsearch_server.paging import WINDOWS
from clipsearch_server.ports import Embeddings
from clipsearch_server.settings.indexes import IndexSettings

Json: TypeAlias = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
LIMIT = 10
UPSERT = 2_000  # points a call
QUERIES = 1_000  # of each kind
FEW_QUERIES = 100  # where each goes through every vector
OVERSAMPLING = 2.0  # as the server asks Qdrant

INT8 = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, always_ram=True)
TURBO4 = edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4, always_ram=True)


@dataclass(frozen=True)
class Variant:
    """A shard that is made of another by ``optimize``."""

    quantization: edge.QuantizationConfigType | None
    source: str = "linear"
    on_disk: bool = False  # the originals are read when they are asked for


VARIANTS = {
    "plain": Variant(None),
    "int8": Variant(INT8),
    "turbo4": Variant(TURBO4),
    "turbo4-cold": Variant(TURBO4, source="turbo4", on_disk=True),  # keeps the graph
}

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A shard, and how it is searched."""

    name: str
    shard: str
    queries: int = QUERIES
    rounds: int = 3  # times that each is asked in a pass
    limit: int = LIMIT
    hnsw_ef: int | None = None  # None: ef_construct, 100
    exact: bool = False
    rescore: bool | None = None  # None: nothing is quantised

    def params(self) -> edge.SearchParams:
        quantization = None
        if self.rescore is not None:
            quantization = edge.QuantizationSearchParams(
                rescore=self.rescore, oversampling=OVERSAMPLING if self.rescore else None
            )
        return edge.SearchParams(hnsw_ef=self.hnsw_ef, exact=self.exact, quantization=quantization)


ROWS = [
    Row(name="linear scan, before optimize", shard="linear", queries=FEW_QUERIES, rounds=1),
    Row(name="plain, exact", shard="plain", queries=FEW_QUERIES, rounds=1, exact=True),
    Row(name="plain", shard="plain"),
    Row(name="int8", shard="int8", rescore=False),
    Row(name="int8, rescored", shard="int8", rescore=True),
    Row(name="turbo4", shard="turbo4", rescore=False),
    Row(name="turbo4, rescored", shard="turbo4", rescore=True),
    Row(name="turbo4, rescored, originals on disk", shard="turbo4-cold", rescore=True),
    *(Row(name=f"plain, hnsw_ef {ef}", shard="plain", hnsw_ef=ef) for ef in (64, 128, 256, 512)),
    *(
        Row(name=f"plain, hnsw_ef {ef}", shard="plain", hnsw_ef=ef, rounds=1)
        for ef in (768, 1024, 1536, 2048, 3072, 4096)
    ),
    *(
        Row(name=f"{shard}, rescored, hnsw_ef 256", shard=shard, hnsw_ef=256, rescore=True)
        for shard in ("int8", "turbo4")
    ),
    *(
        Row(name=f"int8, rescored, hnsw_ef {ef}", shard="int8", hnsw_ef=ef, rescore=True, rounds=1)
        for ef in (512, 1024, 2048)
    ),
    *(
        Row(
            name=f"{shard}, as a server asks",
            shard=shard,
            hnsw_ef=IndexSettings().hnsw_ef,
            limit=WINDOWS[0],
            rescore=None if shard == "plain" else True,
        )
        for shard in VARIANTS
    ),
]


@dataclass(frozen=True)
class Workplace:
    """A folder with the shards of so many points, and what is known of each."""

    folder: Path
    points: int
    world: ClipLike = field(default_factory=ClipLike)

    def shard(self, name: str) -> Path:
        return self.folder / name

    def once(self, name: str, make: Callable[[Path], Json]) -> None:
        """Makes a folder and what is known of it, unless both are there."""
        record = self.folder / f"{name}.json"
        if record.exists():
            return
        console.print(f"{self.points} points: {name}")
        part = self.folder / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(self.shard(name), ignore_errors=True)
        known = make(part)
        part.rename(self.shard(name))
        record.write_text(json.dumps(known))
        console.print(known)

    def known(self, name: str) -> Json:
        result: Json = json.loads((self.folder / f"{name}.json").read_text())
        return result


def build(place: Workplace) -> None:
    place.folder.mkdir(parents=True, exist_ok=True)
    place.once("linear", partial(fill, place))
    place.once("truth", partial(rank, place))
    for name in VARIANTS:
        place.once(name, partial(optimize, place, name))


def fill(place: Workplace, folder: Path) -> Json:
    """Stores the images."""
    shard = Shard.create(folder, DIM)
    seconds = 0.0
    for block in track(range(place.points // BLOCK), "upserting"):
        vectors = place.world.images(block)
        start = perf_counter()
        for first in range(0, BLOCK, UPSERT):
            ids = [UUID(int=block * BLOCK + first + i) for i in range(UPSERT)]
            some = vectors[first : first + UPSERT]
            points = Points(ids=ids, vectors=some, payloads=[{}] * UPSERT)
            shard.upsert(shard.convert(points))
        seconds += perf_counter() - start
    start = perf_counter()
    shard.close()
    return {"upsert_s": seconds + perf_counter() - start, "load": os.getloadavg()[0]}


def rank(place: Workplace, folder: Path) -> Json:
    """Finds the nearest of each query by going through all vectors."""
    texts, _ = place.world.text_queries(QUERIES)
    queries = np.concatenate([texts, place.world.image_queries(QUERIES)])
    keep = LIMIT * 10 + 1
    scores = np.full((len(queries), 0), 0, np.float32)
    numbers = np.zeros((len(queries), 0), np.int64)
    for block in track(range(place.points // BLOCK), "ranking"):
        new = queries @ place.world.images(block).T
        scores = np.hstack([scores, new])
        added = np.broadcast_to(np.arange(BLOCK) + block * BLOCK, new.shape)
        numbers = np.hstack([numbers, added])
        best = np.argpartition(-scores, keep, axis=1)[:, :keep]
        scores = np.take_along_axis(scores, best, axis=1)
        numbers = np.take_along_axis(numbers, best, axis=1)
    order = np.argsort(-scores, axis=1)
    nearest = np.take_along_axis(numbers, order, axis=1)[:, :LIMIT]
    cosines = np.take_along_axis(scores, order, axis=1)
    folder.mkdir()
    np.savez(folder / "truth.npz", queries=queries, nearest=nearest)
    first, tenth = np.median(cosines[:QUERIES, [0, LIMIT - 1]], axis=0).tolist()
    return describe(place.world, cosines[QUERIES:]) | {
        "cosine of a text and its nearest stored image, median": first,
        "cosine of a text and its tenth nearest, median": tenth,
    }


def optimize(place: Workplace, name: str, folder: Path) -> Json:
    """Builds the graph of a copy, which may be quantised."""
    variant = VARIANTS[name]
    shutil.copytree(place.shard(variant.source), folder)
    config = edge.EdgeConfig(  # the graph's and the optimiser's stay as Shard made them
        vectors=edge.EdgeVectorParams(
            size=DIM,
            distance=edge.Distance.Cosine,
            memory=edge.Memory.Cold if variant.on_disk else None,
        ),
        quantization_config=variant.quantization,
    )
    shard = edge.EdgeShard.load(str(folder / "edge"), config)
    cpu, start = cpu_s(), perf_counter()
    shard.optimize()
    known = {
        "optimize_s": perf_counter() - start,
        "optimize_cpu_s": cpu_s() - cpu,
        "load": os.getloadavg()[0],
    }
    shard.flush()
    info = shard.info()
    shard.close()
    if (info.points_count, info.indexed_vectors_count) != (place.points, place.points):
        raise RuntimeError(f"{name}: {info.indexed_vectors_count} of {info.points_count} indexed")
    return known


def measure(place: Workplace, passes: int, some: str) -> None:
    """Measures the rows that have ``some`` in their names; the others stay as they are known."""
    file = RESULTS / f"ann-{place.points}.json"
    known = {row["name"]: row for row in json.loads(file.read_text())["rows"]} if some else {}
    rows = [row for row in ROWS if some in row.name]
    results: dict[str, list[tuple[Json, NDArray[np.float64]]]] = {row.name: [] for row in rows}
    turns = [row for _ in range(passes) for row in rows]
    fresh = multiprocessing.get_context("spawn")
    for row in track(turns, "measuring"):
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            result, times = process.submit(probe, row, place.folder).result()
        results[row.name].append((result, times))
        shown = result | percentiles(times)
        console.print(f"{row.name:30}", *(f"{key} {value:.4g}" for key, value in shown.items()))
    known |= {row.name: summary(row, results[row.name]) for row in rows}
    versions = {name: version(name) for name in ("qdrant-edge-py", "numpy")}
    report = {
        "points": place.points,
        "dim": DIM,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | versions,
        "data": place.known("truth"),
        "build": {
            name: place.known(name) | {"disk_mb": disk_mb(place.shard(name))}
            for name in ("linear", *VARIANTS)
        },
        "rows": [known[row.name] for row in ROWS if row.name in known],
    }
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written: {file.name}")


def probe(row: Row, folder: Path) -> tuple[Json, NDArray[np.float64]]:
    """Asks a shard in the process that this runs in, which should be a fresh one.

    Returns figures, and the milliseconds of each text query: (rounds, queries).
    """
    with np.load(folder / "truth" / "truth.npz") as truth:
        queries: Embeddings = truth["queries"]
        nearest: NDArray[np.int64] = truth["nearest"]
    kinds = {"picture": slice(QUERIES, QUERIES + row.queries), "text": slice(0, row.queries)}
    requests = {
        kind: [
            edge.QueryRequest(
                limit=row.limit, query=edge.Query.Nearest(query.tolist()), params=row.params()
            )
            for query in queries[where]
        ]
        for kind, where in kinds.items()
    }
    before = memory_mb()
    start = perf_counter()
    shard = edge.EdgeShard.load(str(folder / row.shard / "edge"))
    result: Json = {"open_s": perf_counter() - start}
    found = {kind: ask(shard, requests[kind])[0] for kind in kinds}
    cpu = cpu_s()
    times = np.array([ask(shard, requests["text"])[1] for _ in range(row.rounds)])
    result["cpu_ms"] = (cpu_s() - cpu) / times.size * 1e3
    for kind, where in kinds.items():
        right = sum(map(len, map(set.intersection, found[kind], map(set, nearest[where].tolist()))))
        result[f"recall_{kind}"] = right / (LIMIT * row.queries)
    result |= {key: value - before[key] for key, value in memory_mb().items()}
    result["segments"] = shard.info().segments_count
    result["load"] = os.getloadavg()[0]
    return result, times


def ask(
    shard: edge.EdgeShard, requests: list[edge.QueryRequest]
) -> tuple[list[set[int]], list[float]]:
    """Returns the numbers found, and the milliseconds, of each."""
    found, times = [], []
    for request in requests:
        start = perf_counter()
        hits = shard.query(request)
        times.append((perf_counter() - start) * 1e3)
        found.append({hit.id.int for hit in hits[:LIMIT] if isinstance(hit.id, UUID)})
    return found, times


def summary(row: Row, passes: list[tuple[Json, NDArray[np.float64]]]) -> Json:
    results = [result for result, _ in passes]
    fastest = np.concatenate([times for _, times in passes]).min(axis=0)
    return (
        asdict(row)
        | {key: min(result[key] for result in results) for key in results[0] if key != "load"}
        | percentiles(fastest)
        | {"passes": [{"load": result["load"]} | percentiles(times) for result, times in passes]}
    )


def percentiles(times: NDArray[np.float64]) -> Json:
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return {"p50_ms": p50, "p99_ms": p99}


def memory_mb() -> dict[str, float]:
    """Memory of this process: its own, and pages of files, which the kernel may drop.

    Pages that are mapped twice, as Edge does for a scan, count twice as resident but not as files.
    """
    kb = dict.fromkeys(("resident_mb", "private_mb", "segments_mb", "log_mb"), 0)
    path = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        match line.split():
            case ["Rss:", value, "kB"]:
                kb["resident_mb"] += int(value)
            case ["Pss:", value, "kB"]:
                kb["segments_mb"] += int(value) * ("/segments/" in path)
                kb["log_mb"] += int(value) * ("/wal/" in path)
            case ["Anonymous:", value, "kB"]:
                kb["private_mb"] += int(value)
            case [addresses, _, _, _, _, *rest] if "-" in addresses:
                path = rest[0] if rest else ""
    return {name: value / 1024 for name, value in kb.items()}


def disk_mb(shard: Path) -> float:
    """What the segments take, whose files may be sparse. The log beside them comes and goes."""
    return sum(file.stat().st_blocks * 512 for file in shard.glob("edge/segments/**/*")) / 2**20


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machine() -> Json:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    values = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    return {
        "cpu": values["model name"],
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "instructions": sorted(
            {"avx2", "fma", "avx512f", "avx512_vnni"} & set(values["flags"].split())
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=("build", "measure"))
    parser.add_argument("--points", type=int, default=100_000, help=f"a multiple of {BLOCK}")
    parser.add_argument(
        "--work", type=Path, default=Path("build/ann"), help="where shards are kept"
    )
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rows", default="", help="measure those with this in their names only")
    arguments = parser.parse_args()
    place = Workplace(arguments.work / str(arguments.points), arguments.points)
    if arguments.stage == "build":
        build(place)
    else:
        measure(place, arguments.passes, arguments.rows)


if __name__ == "__main__":
    main()
